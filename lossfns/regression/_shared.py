"""Prediction errors for the regression losses."""

import jax

from lossfns._contract import prepare


def errors_of(predictions: jax.Array, targets: jax.Array, where: jax.Array | None) -> jax.Array:
    """Returns predictions - targets in float32 or wider, 0 at masked entries."""
    _, (predictions, targets) = prepare(where, others="real", predictions=predictions, targets=targets)
    return predictions - targets
