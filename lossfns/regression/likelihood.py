"""Negative log-likelihoods of real numbers and counts."""

import math

import jax
import jax.numpy as jnp

from lossfns._contract import (
    as_scalar,
    check_array,
    check_shape,
    check_where,
    flag,
    loss,
    prepare,
    probability_or_off,
    sanitize,
    zero_masked,
)
from lossfns._numerics import excess


@loss(static=("full",), beta=probability_or_off, full=flag)
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
        log_variances: [...], the same shape, log-variances $s$; any number is valid, so nothing is clipped.
        targets: [...], the same shape, any real dtype.
        beta: Multiplies each entry by a constant $\sigma^{2 \beta}$: 0 is the likelihood, 1 gives the means the
            gradient of the squared error.
        full: Whether to add the constant $\tfrac12 \log 2\pi$.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], nats.

    Example:
        An error of 2 at variance 1 costs 2; at variance 4 it costs log 2 + 1/2.

        >>> log_variances = jnp.log(jnp.array([1.0, 4.0]))
        >>> print(gaussian_nll(jnp.array([5.0, 5.0]), log_variances, jnp.array([3.0, 3.0])).round(4))
        [2.     1.1931]

    Conventions:
        torch's `gaussian_nll_loss` takes the variance and clamps it at 1e-6, without gradient; it also drops the
        constant unless `full=True`. Kendall and Gal predict the log-variance, as here.

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
    mean, s, y = sanitize(where, predictions, log_variances, targets)
    error = mean - y
    # An error of 0 at variance 0 would be 0 times infinity.
    nothing = (error == 0) & jnp.isinf(jnp.exp(-s / 2))
    standardized = error * jnp.exp(-jnp.where(nothing, 0, s) / 2)
    values = (s + jnp.square(standardized)) / 2
    if full:
        values += math.log(2 * math.pi) / 2
    if beta is not None:
        values *= jnp.exp(as_scalar(beta, mean.dtype) * jax.lax.stop_gradient(s))
    return zero_masked(where, values)


@loss(static=("full", "log_rate"), full=flag, log_rate=flag)
def poisson_nll(
    rates: jax.Array,
    targets: jax.Array,
    *,
    log_rate: bool = True,
    full: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Negative log-likelihood of a Poisson distribution, $r - y \log r$ with rate $r = e^x$.

    Args:
        rates: [...], floating: the logarithms $x$ of the expected counts, or with `log_rate=False` the expected counts
            $r$.
        targets: [...], the same shape, counts $y$ of at least 0, any real dtype; need not be integers.
        log_rate: Whether the rates are given as logarithms.
        full: Whether to add the constant $\log y!$. The sum is accurate for any count.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], nats. A negative count or rate gives NaN. A rate of 0 (log-rate -inf) costs 0 for the count 0, with
        gradient 1 by the rate, and inf for any other count.

    Example:
        At rate 2, count 0 costs 2 and count 1 costs 2 - log 2.

        >>> print(poisson_nll(jnp.log(jnp.array([2.0, 2.0])), jnp.array([0, 1])).round(4))
        [2.     1.3069]
        >>> print(poisson_nll(jnp.array([2.0, 0.0]), jnp.array([1, 0]), log_rate=False).round(4))
        [1.3069 0.    ]

    Conventions:
        torch's `poisson_nll_loss` is this, with `log_input` for `log_rate`; it adds 1e-8 to a rate in the logarithm,
        and its `full=True` uses Stirling's approximation for counts above 1 (0.0413 too small at 2); here it is the
        exact log-factorial. Keras takes the rate and adds 1e-7 in the logarithm.
    """
    where, (x, y) = prepare(where, others="real", rates=rates, targets=targets)
    y = jnp.where(y >= 0, y, jnp.nan)
    if not full:
        return zero_masked(where, _without_constant(x, y, log_rate))
    many = y >= _MANY
    few, count = jnp.where(many, 0, y), jnp.where(many, y, _MANY)
    values = _without_constant(jnp.where(many, 1, x), few, log_rate) + jax.lax.lgamma(few + 1)
    series = _deviance(*_rate_and_gap(jnp.where(many, x, 1), count, log_rate), count) + _stirling(count)
    return zero_masked(where, jnp.where(many, series, values))


def _without_constant(x: jax.Array, y: jax.Array, log_rate: bool) -> jax.Array:
    # A rate and a count of 0 would give infinity times 0.
    sure = (x == (-jnp.inf if log_rate else 0)) & (y == 0)
    if log_rate:
        return jnp.exp(x) - y * jnp.where(sure, 0, x)
    return x - y * jnp.log(jnp.where(sure, 1, x))


def _rate_and_gap(x: jax.Array, count: jax.Array, log_rate: bool) -> tuple[jax.Array, jax.Array]:
    """The rate r, and log(y / r) of the count y."""
    if log_rate:
        return jnp.exp(x), jnp.log(count) - x
    near = jnp.abs(x - count) < count / 2
    close = -jnp.log1p(jnp.where(near, x - count, 0) / count)
    return x, jnp.where(near, close, jnp.log(count) - jnp.log(jnp.where(near, count, x)))


# From this count on, log y! is y log y - y plus a series; the large terms first cancel against the rate's.
_MANY = 10.0


@jax.custom_jvp
def _deviance(rate: jax.Array, gap: jax.Array, count: jax.Array) -> jax.Array:
    """Half the deviance, y log(y / r) - y + r, from the gap log(y / r)."""
    far = gap < -1
    return jnp.where(far, rate + count * (gap - 1), count * excess(jnp.where(far, 0, gap)))


_deviance.defjvps(
    lambda tangent, value, rate, gap, count: (1 - count / rate) * tangent,
    None,
    lambda tangent, value, rate, gap, count: gap * tangent,
)


def _stirling(count: jax.Array) -> jax.Array:
    """Log y! - y log y + y, for counts of at least `_MANY`."""
    inverse = 1 / count
    series = jnp.zeros_like(count)
    for coefficient in (-691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12):
        series = series * inverse * inverse + coefficient
    return jnp.log(2 * math.pi * count) / 2 + series * inverse
