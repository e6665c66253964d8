"""Checks and means over the feature axes of examples."""

import jax
import jax.numpy as jnp

from lossfns._contract import check_array, check_shape


def check_examples(**arrays: jax.Array) -> None:
    """Raises unless all are floating, of one shape [N, ...] and with at least one feature."""
    (name, first), *others = arrays.items()
    check_array(name, first)
    if first.ndim == 0 or 0 in first.shape[1:]:
        raise ValueError(f"{name} must be [N, ...] with at least one feature for each example, got shape {first.shape}")
    for other, x in others:
        check_shape(other, check_array(other, x), first.shape, f"of {name}")


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
