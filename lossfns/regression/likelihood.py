"""Negative log-likelihoods of real numbers and counts."""

import math

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    check_array,
    check_shape,
    check_where,
    flag,
    hyper,
    keep_rows,
    loss,
    share_or_off,
    zero_masked,
)


@loss(static=("full",), beta=share_or_off, full=flag)
def gaussian_nll(
    predictions: jax.Array,
    log_variances: jax.Array,
    targets: jax.Array,
    *,
    beta: float | jax.Array = 0.0,
    full: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Negative log-likelihood of a normal distribution with predicted mean and variance.

    $$\tfrac12 \left(s + (\hat y - y)^2 e^{-s}\right), \quad s = \log \sigma^2$$

    Args:
        predictions: [...], floating, the means $\hat y$.
        log_variances: [...], the same shape, the logarithms $s$ of the variances. There is nothing to clip: any number
            is a variance.
        targets: [...], the same shape, any real dtype. Nothing is broadcast.
        beta: Each entry is multiplied by $\sigma^{2 \beta}$, a constant for the gradient: 0 is the likelihood, 1 gives
            the means the gradient of the squared error.
        full: Whether to add the constant $\tfrac12 \log 2\pi$.
        where: [...], boolean; False deletes the entry.

    Returns:
        [...], nats, float32 or wider; 0 at masked entries.

    Raises:
        ValueError: If the shapes differ or beta is not between 0 and 1.
        TypeError: If predictions or log-variances are not floating.

    Example:
        An error of 2 at variance 1 costs 2; at variance 4 it costs log 2 + 1/2.

        >>> log_variances = jnp.log(jnp.array([1.0, 4.0]))
        >>> print(gaussian_nll(jnp.array([5.0, 5.0]), log_variances, jnp.array([3.0, 3.0])).round(4))
        [2.     1.1931]

    Conventions:
        torch's `gaussian_nll_loss` takes the variance, raises it to 1e-6 and then lets no gradient through it; it drops
        the constant too unless `full=True`. Kendall and Gal predict the log-variance, as here.

    References:
        Nix and Weigend 1994, doi:10.1109/ICNN.1994.374138. Kendall and Gal 2017, arXiv:1703.04977. Seitzer et al. 2022,
        arXiv:2203.09168 (beta).
    """
    check_array("predictions", predictions)
    check_array("log_variances", log_variances)
    check_array("targets", targets, "real")
    check_shape("log_variances", log_variances, predictions.shape, "of predictions")
    check_shape("targets", targets, predictions.shape, "of predictions")
    where = check_where(where, predictions.shape)
    dtype = accumulation_dtype(predictions, log_variances, targets)
    mean, s, y = (keep_rows(where, x).astype(dtype) for x in (predictions, log_variances, targets))
    error = mean - y
    # No error at no variance would be 0 times infinity.
    nothing = (error == 0) & jnp.isinf(jnp.exp(-s / 2))
    standardized = error * jnp.exp(-jnp.where(nothing, 0, s) / 2)
    values = (s + jnp.square(standardized)) / 2
    if full:
        values += math.log(2 * math.pi) / 2
    if beta is not None:
        values *= jnp.exp(hyper(beta, dtype) * jax.lax.stop_gradient(s))
    return zero_masked(where, values)


@loss(static=("full",), full=flag)
def poisson_nll(
    log_rates: jax.Array, targets: jax.Array, *, full: bool = False, where: jax.Array | None = None
) -> jax.Array:
    r"""Negative log-likelihood of a Poisson distribution with predicted log-rate, $e^x - y x$.

    Args:
        log_rates: [...], floating, the logarithms $x$ of the expected counts.
        targets: [...], the same shape, counts $y$ of at least 0, any real dtype; they need not be whole. Nothing is
            broadcast.
        full: Whether to add the constant $\log y!$.
        where: [...], boolean; False deletes the entry.

    Returns:
        [...], nats, float32 or wider; 0 at masked entries. A negative count gives NaN; a rate of 0 (a log-rate of -inf)
        costs 0 for the count 0 and inf for any other.

    Raises:
        ValueError: If the shapes differ.
        TypeError: If log-rates are not floating.

    Example:
        At rate 2 the count 0 costs 2, and the count 1 costs 2 - log 2.

        >>> print(poisson_nll(jnp.log(jnp.array([2.0, 2.0])), jnp.array([0, 1])).round(4))
        [2.     1.3069]

    Conventions:
        torch's `poisson_nll_loss` with `log_input=True` is this; its `full=True` adds Stirling's approximation for
        counts above 1, which is 0.0413 too small at 2; here it is the log-factorial itself. Keras takes the rate and
        adds 1e-7 to it inside the logarithm.
    """
    check_array("log_rates", log_rates)
    check_array("targets", targets, "real")
    check_shape("targets", targets, log_rates.shape, "of log_rates")
    where = check_where(where, log_rates.shape)
    dtype = accumulation_dtype(log_rates, targets)
    x, y = keep_rows(where, log_rates).astype(dtype), keep_rows(where, targets).astype(dtype)
    y = jnp.where(y >= 0, y, jnp.nan)
    # A rate of 0 and the count 0 would be infinity times 0.
    sure = (x == -jnp.inf) & (y == 0)
    values = jnp.exp(x) - y * jnp.where(sure, 0, x)
    if full:
        values += jax.lax.lgamma(y + 1)
    return zero_masked(where, values)
