"""What the regression losses share: errors of predictions, and options for each entry."""

import jax

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
