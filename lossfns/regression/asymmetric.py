"""Losses that weight errors above and below the target differently: quantiles and expectiles."""

import jax
import jax.numpy as jnp

from lossfns._contract import Number, entries, loss, zero_masked
from lossfns.regression._shared import errors_of

between = Number("between 0 and 1, both excluded", lambda v: (v > 0) & (v < 1))


@loss(quantile=between.each)
def quantile(
    predictions: jax.Array, targets: jax.Array, *, quantile: float | jax.Array = 0.5, where: jax.Array | None = None
) -> jax.Array:
    r"""Quantile (pinball) loss, minimised on average by the quantile $q$ of the target.

    $$q\,(y - \hat y) \ \text{if}\ y > \hat y, \quad (1 - q)\,(\hat y - y)\ \text{otherwise}$$

    Args:
        predictions: [...], floating.
        targets: [...], the same shape, any real dtype.
        quantile: $q$, between 0 and 1: a scalar, or an array that broadcasts to the predictions (one quantile per entry
            of the last axis).
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], units of the target. The gradient is 0 at equality. A traced quantile outside its range gives NaN at its
        entries.

    Example:
        For the 0.75 quantile, 2 too low costs 1.5, and 2 too high 0.5.

        >>> print(quantile(jnp.array([1.0, 5.0]), jnp.array([3.0, 3.0]), quantile=0.75))
        [1.5 0.5]

    Conventions:
        At 0.5 this is half the absolute error. scikit-learn's `mean_pinball_loss` has the same scale.

    References:
        Koenker and Bassett 1978, doi:10.2307/1913643.
    """
    error = errors_of(predictions, targets, where)
    q = entries("quantile", quantile, between, error, where, 0.5)
    slope = jnp.where(error > 0, 1 - q, jnp.where(error < 0, -q, 0 * q))
    return zero_masked(where, jnp.where(error == 0, 0 * q, slope * error))


@loss(expectile=between.each)
def expectile(
    predictions: jax.Array, targets: jax.Array, *, expectile: float | jax.Array = 0.5, where: jax.Array | None = None
) -> jax.Array:
    r"""Asymmetric squared error, minimised on average by the expectile $\tau$ of the target.

    $$\tau\,(y - \hat y)^2 \ \text{if}\ y > \hat y, \quad (1 - \tau)\,(y - \hat y)^2\ \text{otherwise}$$

    Args:
        predictions: [...], floating.
        targets: [...], the same shape, any real dtype.
        expectile: $\tau$, between 0 and 1: a scalar, or an array that broadcasts to the predictions.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], squared units of the target. A traced expectile outside its range gives NaN at its entries.

    Example:
        For the 0.75 expectile, 2 too low costs 3, and 2 too high 1.

        >>> print(expectile(jnp.array([1.0, 5.0]), jnp.array([3.0, 3.0]), expectile=0.75))
        [3. 1.]

    Conventions:
        At 0.5 this is half the squared error. Implicit Q-learning's value loss is this with the values as predictions.

    References:
        Newey and Powell 1987, doi:10.2307/1911031. Kostrikov et al. 2021, arXiv:2110.06169 (IQL).
    """
    error = errors_of(predictions, targets, where)
    tau = entries("expectile", expectile, between, error, where, 0.5)
    return zero_masked(where, jnp.where(error > 0, 1 - tau, tau) * jnp.square(error))
