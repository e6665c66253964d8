"""Cross-entropies weighted by the model's confidence: focal, poly-1, asymmetric."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from lossfns._contract import (
    Number,
    accumulation_dtype,
    as_scalar,
    check_array,
    check_shape,
    check_where,
    flag,
    keep_rows,
    loss,
    nan_where_invalid,
    non_negative,
    probability,
    zero_masked,
)
from lossfns._numerics import focused
from lossfns.classification.cross_entropy import softmax_cross_entropy

at_least_minus_one = Number("at least -1 and finite", lambda v: (v >= -1) & (v < math.inf))
below_one = Number("at least 0 and below 1", lambda v: (v >= 0) & (v < 1))


@loss(gamma=non_negative, alpha=non_negative.each)
def focal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: float | jax.Array = 2.0,
    alpha: float | jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Focal loss of a softmax with integer labels.

    $$-\alpha_y (1 - p_y)^\gamma \log p_y, \quad p = \mathrm{softmax}(x)$$

    Args:
        logits: [..., V], unnormalised log-probabilities in nats; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1.
        gamma: Focusing exponent $\gamma$; 0 is the cross-entropy.
        alpha: Class weights $\alpha$, [V], or one number for all; None for 1.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row. A label of a masked class gives inf. At $p_y = 1$ value and gradient are 0.

    Example:
        At p = 1/2 the loss is a quarter of log 2.

        >>> print(focal(jnp.zeros((1, 2)), jnp.array([0])).round(4))
        [0.1733]

    Conventions:
        The paper's loss is binary, `sigmoid_focal`, where $\alpha$ and $1 - \alpha$ weight the classes; this is its
        usual multi-class form. To average over the positives of the batch as in the paper, use the term's weights.

    References:
        Lin et al. 2017, arXiv:1708.02002.
    """
    nats = softmax_cross_entropy(logits, labels, where=where)
    values = focused(nats, as_scalar(gamma, nats.dtype))
    if alpha is not None:
        values *= _weight_of_class(jnp.asarray(alpha), labels, logits.shape[-1]).astype(nats.dtype)
    return zero_masked(where, values)


def _weight_of_class(alpha: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    if alpha.shape not in ((), (classes,)):
        raise ValueError(f"alpha must be a number or have the shape ({classes},) of the classes, got {alpha.shape}")
    if alpha.ndim:
        alpha = jnp.take(alpha, labels, mode="clip")
        alpha = jnp.where(non_negative.holds(alpha), alpha, jnp.nan)
    return alpha


@loss(gamma=non_negative, alpha=probability)
def sigmoid_focal(
    logits: jax.Array,
    targets: jax.Array,
    *,
    gamma: float | jax.Array = 2.0,
    alpha: float | jax.Array | None = 0.25,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Focal loss of independent sigmoids.

    $$-\alpha\, t\, (1 - p)^\gamma \log p - (1 - \alpha) (1 - t)\, p^\gamma \log(1 - p), \quad p = \sigma(x)$$

    Args:
        logits: [...], log-odds in nats.
        targets: [...], the same shape, 0 or 1 or a probability between; any real dtype. Boolean and integer targets are
            faster.
        gamma: Focusing exponent $\gamma$; 0 is the binary cross-entropy.
        alpha: Weight of the positives; $1 - \alpha$ weights the negatives. None weights both with 1.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], nats per entry. A target outside 0 .. 1 gives NaN.

    Example:
        At equal odds a positive costs 1/4 of 1/4 of log 2, a negative 3/4 of 1/4 of log 2.

        >>> print(sigmoid_focal(jnp.zeros(2), jnp.array([1, 0])).round(4))
        [0.0433 0.13  ]

    Conventions:
        $\alpha = 0.25$ and $\gamma = 2$ are the paper's best and torchvision's defaults; Optax has no default weight. A
        target t between 0 and 1 gives the expectation over labels drawn with probability t; torchvision and Optax
        multiply the mean cross-entropy by the mean modulating factor instead: at t = 1/2 and p = 3/4, 0.52 times this.

    References:
        Lin et al. 2017, arXiv:1708.02002.
    """
    x, targets, where = _check_answers(logits, targets, where)
    dtype = x.dtype
    exponent = as_scalar(gamma, dtype)
    positive = jnp.ones((), dtype) if alpha is None else as_scalar(alpha, dtype)
    negative = jnp.ones((), dtype) if alpha is None else 1 - positive
    infinite = jnp.isinf(x)
    finite = jnp.where(infinite, 0, x)
    if jnp.issubdtype(targets.dtype, jnp.floating):
        for_positive, for_negative = positive * targets, negative * (1 - targets)
        values = for_positive * _doubtful(finite, exponent) + for_negative * _doubtful(-finite, exponent)
        wrong = jnp.where(x > 0, for_negative, for_positive) != 0
        valid = (targets >= 0) & (targets <= 1)
    else:
        is_positive = targets == 1
        weight = jnp.where(is_positive, positive, negative)
        values = weight * _doubtful(jnp.where(is_positive, finite, -finite), exponent)
        wrong = ((x > 0) != is_positive) & (weight != 0)
        valid = is_positive | (targets == 0)
    values = jnp.where(infinite, jnp.where(wrong, jnp.inf, 0), values)
    return zero_masked(where, jnp.where(valid, values, jnp.nan))


def _check_answers(
    logits: jax.Array, targets: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns logits and targets of one shape, sanitised; integer targets stay integers."""
    check_array("logits", logits)
    check_array("targets", targets, "real")
    check_shape("targets", targets, logits.shape, "of logits")
    where = check_where(where, logits.shape)
    dtype = accumulation_dtype(logits, targets)
    targets = keep_rows(where, targets)
    if jnp.issubdtype(targets.dtype, jnp.floating):
        targets = targets.astype(dtype)
    return keep_rows(where, logits).astype(dtype), targets, where


@jax.custom_jvp
def _doubtful(x: jax.Array, gamma: jax.Array) -> jax.Array:
    """(1 - p)^gamma (-log p) with p = sigmoid(x), for finite x.

    XLA on CPU materialises a transcendental that has two users. So value and derivative are each one chain of
    transcendentals, and they write e^-|x| differently so that the compiler does not merge them.
    """
    minus_log_p, minus_log_q = _softplus_both_ways(x, jnp.exp(-jnp.abs(x)))
    return jnp.exp(-gamma * minus_log_q) * minus_log_p


@functools.partial(_doubtful.defjvp, symbolic_zeros=True)
def _doubtful_jvp(primals: Any, tangents: Any) -> Any:
    x, gamma = primals
    dx, dgamma = tangents
    minus_log_p, minus_log_q = _softplus_both_ways(x, jnp.exp(jnp.minimum(x, -x)))
    power = jnp.exp(-gamma * minus_log_q)
    tangent_out = jnp.zeros_like(x)
    if not isinstance(dx, SymbolicZero):
        p, q = _sigmoid_both_ways(x)
        tangent_out = -power * (q + gamma * p * minus_log_p) * dx
    if not isinstance(dgamma, SymbolicZero):
        tangent_out -= minus_log_q * power * minus_log_p * dgamma
    return _doubtful(x, gamma), tangent_out


@jax.custom_jvp
def _sigmoid_both_ways(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """sigmoid(x) and sigmoid(-x) from one exponential, which XLA shares with the gradient of `_doubtful`."""
    decay = jnp.exp(jnp.minimum(x, -x))
    larger = 1 / (1 + decay)
    smaller = decay * larger
    return jnp.where(x > 0, larger, smaller), jnp.where(x > 0, smaller, larger)


@_sigmoid_both_ways.defjvp
def _sigmoid_both_ways_jvp(primals: Any, tangents: Any) -> Any:
    p, q = _sigmoid_both_ways(*primals)
    tangent_out = p * q * tangents[0]  # right at 0 too, where selecting the larger has no derivative
    return (p, q), (tangent_out, -tangent_out)


def _softplus_both_ways(x: jax.Array, decay: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log(1 + e^-x) and log(1 + e^x), i.e. -log p and -log(1 - p), from x and e^-|x|."""
    rest = _log1p_of_share(decay)
    return jnp.maximum(-x, 0) + rest, jnp.maximum(x, 0) + rest


# log(1 + x) / x on 0 .. 1, interpolated at the Chebyshev points: off by 5e-9.
_LOG1P = (
    0.999999995,
    -0.499998926,
    0.333297105,
    -0.249516163,
    0.196632743,
    -0.152696671,
    0.105436238,
    -0.0563736132,
    0.0195425274,
    -0.00317605705,
)


def _log1p_of_share(x: jax.Array) -> jax.Array:
    """log(1 + x) for x in 0 .. 1, to 2 ulp, also for small x.

    A polynomial in float32: on CPU it costs a third of XLA's log1p and, unlike log1p or a division, fuses into the
    loops that use it.
    """
    if x.dtype != jnp.float32:
        return jnp.log1p(x)
    series = jnp.full_like(x, _LOG1P[-1])
    for coefficient in _LOG1P[-2::-1]:
        series = series * x + coefficient
    return x * series


@loss(epsilon=at_least_minus_one)
def poly1(
    logits: jax.Array, labels: jax.Array, *, epsilon: float | jax.Array = 2.0, where: jax.Array | None = None
) -> jax.Array:
    r"""Cross-entropy with its first polynomial coefficient changed, $-\log p_y + \epsilon (1 - p_y)$.

    $-\log p = \sum_j (1 - p)^j / j$; PolyLoss adds $\epsilon$ to the coefficient of the first of these terms.

    Args:
        logits: [..., V], unnormalised log-probabilities in nats; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1.
        epsilon: $\epsilon$, at least -1; 0 is the cross-entropy.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row. A label of a masked class gives inf.

    Example:
        At p = 1/2 the default adds 1 to log 2.

        >>> print(poly1(jnp.zeros((1, 2)), jnp.array([0])).round(4))
        [1.6931]

    Conventions:
        The default is the paper's for ImageNet and Optax's; the paper tunes it per task, negative for imbalanced
        detection. Below -1 the loss would fall as p falls.

    References:
        Leng et al. 2022, arXiv:2204.12511.
    """
    nats = softmax_cross_entropy(logits, labels, where=where)
    return zero_masked(where, nats - as_scalar(epsilon, nats.dtype) * jnp.expm1(-nats))


@loss(
    static=("constant_weights",),
    gamma_positive=non_negative,
    gamma_negative=non_negative,
    margin=below_one,
    constant_weights=flag,
)
def asymmetric(
    logits: jax.Array,
    targets: jax.Array,
    *,
    gamma_positive: float | jax.Array = 0.0,
    gamma_negative: float | jax.Array = 4.0,
    margin: float | jax.Array = 0.05,
    constant_weights: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Asymmetric loss (ASL) for multi-label classification with few positive labels.

    $$-t\, (1 - p)^{\gamma_+} \log p - (1 - t)\, p_m^{\gamma_-} \log(1 - p_m), \quad p_m = \max(p - m, 0)$$

    with $p = \sigma(x)$: a negative with probability below the margin m costs nothing.

    Args:
        logits: [...], log-odds in nats.
        targets: [...], the same shape, 0 or 1 or a probability between; any real dtype.
        gamma_positive: Focusing exponent $\gamma_+$ of positives.
        gamma_negative: Focusing exponent $\gamma_-$ of negatives.
        margin: m, subtracted from the probability of negatives.
        constant_weights: Whether the gradient treats the powers $(1 - p)^{\gamma_+}$ and $p_m^{\gamma_-}$ as constants.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], nats per entry. A target outside 0 .. 1 gives NaN.

    Example:
        At p = 1/2 a positive costs log 2, a negative $0.45^4$ times -log 0.55.

        >>> print(asymmetric(jnp.zeros(2), jnp.array([1, 0])).round(4))
        [0.6931 0.0245]

    Conventions:
        The authors' training code defaults to $\gamma_+ = 1$ and `constant_weights=True` (their
        `disable_torch_grad_focal_loss`), and clamps the logarithms' arguments at 1e-8.

    References:
        Ben-Baruch, Ridnik et al. 2020, arXiv:2009.14119.
    """
    x, targets, where = _check_answers(logits, targets, where)
    dtype = x.dtype
    answer = targets.astype(dtype)
    plus, minus, m = as_scalar(gamma_positive, dtype), as_scalar(gamma_negative, dtype), as_scalar(margin, dtype)
    infinite = jnp.isinf(x)
    finite = jnp.where(infinite, 0, x)
    p = jax.nn.sigmoid(finite)
    free = p <= m
    power = jnp.exp(minus * jnp.log(jnp.where(free, 1, p - m)))
    present = _doubtful(finite, plus)
    if constant_weights:
        power = jax.lax.stop_gradient(power)
        present = jax.lax.stop_gradient(jnp.exp(-plus * jax.nn.softplus(finite))) * jax.nn.softplus(-finite)
    # log(1 - p + m), written so that a margin of 0 does not give a NaN derivative by the margin.
    log_rest, none = -jax.nn.softplus(finite), m == 0
    log_sum = jnp.logaddexp(log_rest, jnp.log(jnp.where(none, 1, m)))
    absent = jnp.where(free, 0, -power * jnp.where(none, log_rest + m * jnp.exp(jnp.minimum(-log_rest, 80)), log_sum))
    values = answer * present + (1 - answer) * absent
    at_most = -jnp.exp(minus * jnp.log1p(-m)) * jnp.log(m)
    ends = jnp.where(x > 0, _part(1 - answer, at_most), _part(answer, jnp.inf))
    values = jnp.where(infinite, jax.lax.stop_gradient(ends), values)
    return zero_masked(where, nan_where_invalid((answer >= 0) & (answer <= 1), values))


def _part(amount: jax.Array, value: jax.Array | float) -> jax.Array:
    """`amount * value`, with 0 * infinity = 0."""
    return jnp.where(amount == 0, 0, jnp.where(amount == 0, 1, amount) * value)
