"""Errors of predictions, as the regression losses take them."""

import jax

from lossfns._contract import prepare


def errors_of(predictions: jax.Array, targets: jax.Array, where: jax.Array | None) -> jax.Array:
    """Returns predictions - targets in float32 or wider, 0 at masked places."""
    _, (predictions, targets) = prepare(where, others="real", predictions=predictions, targets=targets)
    return predictions - targets
