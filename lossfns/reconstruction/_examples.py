"""Checks and means over the features of an example, however many axes they have."""

import jax
import jax.numpy as jnp

from lossfns._contract import accumulation_dtype, check_array, check_shape, keep_rows


def check_examples(**arrays: jax.Array) -> None:
    """Raise unless all are floating, of one shape [N, ...] and with at least one feature."""
    (name, first), *others = arrays.items()
    check_array(name, first)
    if first.ndim == 0 or 0 in first.shape[1:]:
        raise ValueError(f"{name} must be [N, ...] with at least one feature for each example, got shape {first.shape}")
    for other, x in others:
        check_shape(other, check_array(other, x), first.shape, f"of {name}")


def prepared(where: jax.Array | None, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays with masked examples replaced, in the dtype of the computation."""
    dtype = accumulation_dtype(*arrays)
    return tuple(keep_rows(where, x).astype(dtype) for x in arrays)


def per_example(x: jax.Array, like: jax.Array) -> jax.Array:
    """[N] values that broadcast against [N, ...]."""
    return x.reshape(x.shape + (1,) * (like.ndim - 1))


def feature_axes(x: jax.Array) -> tuple[int, ...]:
    """All axes but the first."""
    return tuple(range(1, x.ndim))


def mean_over_features(x: jax.Array) -> jax.Array:
    """[N] from [N, ...]."""
    return jnp.mean(x, axis=feature_axes(x))


def sum_over_features(x: jax.Array) -> jax.Array:
    """[N] from [N, ...]."""
    return jnp.sum(x, axis=feature_axes(x))


def nan_unless(valid: jax.Array, values: jax.Array) -> jax.Array:
    """NaN where an input makes no sense; `valid` is [N, ...], and one bad entry spoils its example."""
    return jnp.where(jnp.all(valid, axis=feature_axes(valid)), values, jnp.nan)
