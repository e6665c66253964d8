"""What the regression losses share: errors of predictions, and options for each entry."""

import jax
import jax.numpy as jnp

from lossfns._contract import accumulation_dtype, check_array, check_shape, check_where, keep_rows


def errors_of(predictions: jax.Array, targets: jax.Array, where: jax.Array | None) -> jax.Array:
    """Return predictions - targets in float32 or wider, 0 at masked places."""
    predictions, targets = both(predictions, targets, where)
    return predictions - targets


def both(predictions: jax.Array, targets: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Return predictions and targets in float32 or wider, 0 at masked places."""
    check_array("predictions", predictions)
    check_array("targets", targets, "real")
    check_shape("targets", targets, predictions.shape, "of predictions")
    check_where(where, predictions.shape)
    dtype = accumulation_dtype(predictions, targets)
    return keep_rows(where, predictions).astype(dtype), keep_rows(where, targets).astype(dtype)


def each(name: str, value: float | jax.Array, x: jax.Array, where: jax.Array | None, fill: float) -> jax.Array:
    """An option as an array of the shape of `x`, from a scalar or an array that broadcasts to it."""
    array = jnp.asarray(value, x.dtype)
    sizes = zip(array.shape[::-1], x.shape[::-1], strict=False)
    if array.ndim > x.ndim or any(n not in (1, size) for n, size in sizes):
        raise ValueError(
            f"{name} must be a scalar or broadcast to the shape {x.shape} of the result, got {array.shape}"
        )
    return keep_rows(where, jnp.broadcast_to(array, x.shape), fill)
