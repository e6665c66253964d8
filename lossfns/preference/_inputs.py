"""What the losses of preference have in common: arrays of one shape and checks of their numbers."""

from typing import Any

import jax
import jax.numpy as jnp

from lossfns._contract import Number, accumulation_dtype, check_array, check_shape, check_where, keep_rows

below_half = Number("at least 0 and below 1/2", lambda v: (v >= 0) & (v < 0.5))


def alike(where: Any, **arrays: jax.Array) -> tuple[jax.Array | None, list[jax.Array]]:
    """Check that named floating arrays have one shape; return `where` and them in one dtype, 0 at masked places."""
    (first, example), *others = arrays.items()
    check_array(first, example)
    for name, array in others:
        check_shape(name, check_array(name, array), example.shape, f"of {first}")
    where = check_where(where, example.shape)
    dtype = accumulation_dtype(*arrays.values())
    return where, [keep_rows(where, array).astype(dtype) for array in arrays.values()]


def signs(name: str, answer: jax.Array, shape: tuple[int, ...], of: str, dtype: jnp.dtype) -> jax.Array:
    """1 for True or 1, -1 for False or 0, NaN for any other integer."""
    check_shape(name, check_array(name, answer, "integer or boolean"), shape, of)
    answer = answer.astype(jnp.int32)
    return jnp.where(answer == 1, 1, jnp.where(answer == 0, -1, jnp.nan)).astype(dtype)


def wrong_way(margin: jax.Array, label_smoothing: Any) -> jax.Array:
    """-log sigmoid(margin), or under label smoothing the cross-entropy to a preference of 1 - epsilon."""
    if label_smoothing is None:
        return jax.nn.softplus(-margin)
    epsilon = jnp.asarray(label_smoothing).astype(margin.dtype)
    return (1 - epsilon) * jax.nn.softplus(-margin) + epsilon * jax.nn.softplus(margin)
