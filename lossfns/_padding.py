"""Padding inside an example: which steps, labels, words or edges are present, by mask or by length."""

from typing import Any

import jax
import jax.numpy as jnp

from lossfns._contract import check_array, check_shape, keep_rows


def check_present(
    name: str, value: Any, shape: tuple[int, ...], where: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Returns masks of the present positions [..., N] and of the examples [...] with a valid count.

    Args:
        name: Name of the argument.
        value: None if all are present, a boolean mask of `shape`, or integers, the number of present positions at the
            front of each example.
        shape: [..., N].
        where: The examples that count, [...], or None; lengths of the others are ignored.
    """
    if value is None:
        return jnp.ones(shape, bool), jnp.ones(shape[:-1], bool)
    check_array(name, value, "boolean or integer")
    if value.dtype == bool:
        check_shape(name, value, shape, "of a mask, or be integers, one length for each example")
        return value, jnp.ones(shape[:-1], bool)
    check_shape(name, value, shape[:-1], "of the examples, one length for each, or be a boolean mask")
    lengths = keep_rows(where, value.astype(jnp.promote_types(value.dtype, jnp.int32)))
    return positions(shape[-1], len(shape)) < lengths[..., None], (lengths >= 0) & (lengths <= shape[-1])


def check_prefix(name: str, value: Any, shape: tuple[int, ...], where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """`check_present` for positions that must be a prefix: a mask with a hole is invalid."""
    present, valid = check_present(name, value, shape, where)
    hole = jnp.any(present[..., 1:] & ~present[..., :-1], axis=-1)
    return present, valid & (~hole if where is None else ~hole | ~where)


def positions(count: int, rank: int) -> jax.Array:
    """0 .. count-1 along the last of `rank` axes."""
    return jnp.arange(count).reshape((1,) * (rank - 1) + (count,))
