"""Bounded losses: unlike the cross-entropy, a wrong label cannot dominate them."""

import math

import jax
import jax.numpy as jnp

from lossfns._contract import (
    Number,
    accumulation_dtype,
    as_scalar,
    check_labels,
    flag,
    keep_rows,
    loss,
    nan_where_invalid,
    non_negative,
    probability,
    zero_masked,
)
from lossfns._numerics import at_label, focused, log_probabilities
from lossfns.classification.cross_entropy import softmax_cross_entropy

negative = Number("negative and finite", lambda v: (v < 0) & (v > -math.inf))
above_zero = Number("above 0 and at most 1", lambda v: (v > 0) & (v <= 1))


@loss(q=probability, truncation=above_zero)
def generalized_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    q: float | jax.Array = 0.7,
    truncation: float | jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Generalised cross-entropy (GCE), between cross-entropy and mean absolute error.

    $$\frac{1 - p_y^q}{q}, \quad p = \mathrm{softmax}(x)$$

    Args:
        logits: [..., V], unnormalised log-probabilities in nats; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1.
        q: Exponent in 0 .. 1; 0 is the limit, the cross-entropy, and 1 is $1 - p_y$.
        truncation: Probability k up to which the loss is the constant $(1 - k^q) / q$, without gradient; None for no
            truncation.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], between 0 and 1/q.

    Example:
        At p = 1/4 and q = 1/2 the root is 1/2, and the loss (1 - 1/2) / (1/2).

        >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
        >>> print(generalized_cross_entropy(logits, jnp.array([0]), q=0.5))
        [1.]

    Conventions:
        The paper truncates at k = 1/2 and excludes the truncated rows from training until the next check of the model:
        use `where`.

    References:
        Zhang and Sabuncu 2018, arXiv:1805.07836.
    """
    nats = softmax_cross_entropy(logits, labels, where=where)
    if truncation is not None:
        most = -jnp.log(as_scalar(truncation, nats.dtype))
        nats = jnp.where(nats >= most, most, nats)
    exponent = as_scalar(q, nats.dtype)
    none = exponent == 0
    some = jnp.where(none, 1, exponent)
    # At probability 0 of the label, the power and all of its derivatives are 0.
    lost = nats == jnp.inf
    values = jnp.where(lost, 1, -jnp.expm1(-some * jnp.where(none | lost, 1, nats))) / some
    return zero_masked(where, jnp.where(none, nats, values))


@loss(alpha=non_negative, beta=non_negative, log_zero=negative)
def symmetric_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: float | jax.Array = 0.1,
    beta: float | jax.Array = 1.0,
    log_zero: float | jax.Array = -4.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Symmetric cross-entropy (SCE): the cross-entropy plus its reverse, with log 0 replaced by a constant A.

    $$-\alpha \log p_y - \beta \sum_k p_k \log [k = y] = -\alpha \log p_y - \beta A (1 - p_y)$$

    Args:
        logits: [..., V], unnormalised log-probabilities in nats; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1.
        alpha: $\alpha$, weight of the cross-entropy.
        beta: $\beta$, weight of the reverse cross-entropy.
        log_zero: A, replaces log 0.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row. A label of a masked class gives inf unless alpha is 0.

    Example:
        At equal odds: a tenth of log 2, plus 4 times 1/2.

        >>> print(symmetric_cross_entropy(jnp.zeros((1, 2)), jnp.array([0])).round(4))
        [2.0693]

    Conventions:
        The defaults are the paper's for CIFAR-10; CIFAR-100 has alpha 6 and beta 0.1. Code in circulation clips the
        labels at 1e-4, so A = log 1e-4 = -9.21, not -4: its reverse term is 2.3 times as large.

    References:
        Wang et al. 2019, arXiv:1908.06112.
    """
    nats = softmax_cross_entropy(logits, labels, where=where)
    weight = as_scalar(alpha, nats.dtype)
    active = jnp.where(weight == 0, 0, weight * jnp.where((weight == 0) & jnp.isinf(nats), 0, nats))
    active = jnp.where(jnp.isnan(nats), nats, active)
    return zero_masked(where, active + as_scalar(beta, nats.dtype) * as_scalar(log_zero, nats.dtype) * jnp.expm1(-nats))


@loss(
    static=("constant_weights",),
    alpha=non_negative,
    beta=non_negative,
    gamma=non_negative,
    log_zero=negative,
    constant_weights=flag,
)
def normalized_active_passive(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: float | jax.Array = 1.0,
    beta: float | jax.Array = 1.0,
    gamma: float | jax.Array = 0.0,
    log_zero: float | jax.Array = -4.0,
    constant_weights: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Normalised cross-entropy plus reverse cross-entropy (NCE + RCE), an active and a passive loss.

    $$\alpha \frac{f(p_y)}{\sum_k f(p_k)} - \beta A (1 - p_y), \quad f(p) = -(1 - p)^\gamma \log p$$

    Args:
        logits: [..., V], unnormalised log-probabilities in nats; a class at -inf is masked and excluded from the sum.
        labels: [...], integers in 0 .. V-1.
        alpha: $\alpha$, weight of the active, normalised loss.
        beta: $\beta$, weight of the passive loss.
        gamma: Focusing exponent $\gamma$; 0 is the normalised cross-entropy, above 0 the normalised focal loss.
        log_zero: A, replaces log 0 in the reverse cross-entropy; -2 makes it the mean absolute error.
        constant_weights: Whether the gradient treats the powers $(1 - p_k)^\gamma$ as constants.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], between 0 and $\alpha - \beta A$. With a single unmasked class the active loss is 0.

    Example:
        At equal odds: the label has half of the sum, plus 4 times 1/2.

        >>> print(normalized_active_passive(jnp.zeros((1, 2)), jnp.array([0])))
        [2.5]

    Conventions:
        CIFAR-10 in the paper has alpha = beta = 1, CIFAR-100 alpha 10 and beta 0.1. The authors' code clips the labels
        at 1e-4, so A = -9.21; A = -4 is from the paper of `symmetric_cross_entropy`. It has `constant_weights=True`,
        also in the denominator; the value is the same.

    References:
        Ma et al. 2020, arXiv:2006.13554.
    """
    labels, in_range, where = check_labels(logits, labels, where)
    dtype = accumulation_dtype(logits)
    log_p = log_probabilities(keep_rows(where, logits))
    label = jnp.sum(jnp.where(at_label(labels, log_p.shape[-1]), log_p, 0), axis=-1)
    absent = label == -jnp.inf
    nats = jnp.where(absent, 0, -label)
    exponent = as_scalar(gamma, dtype)
    weighed = _with_constant_weight if constant_weights else focused
    total = jnp.sum(weighed(jnp.where(log_p == -jnp.inf, 0, -log_p), exponent), axis=-1)
    certain = total == 0
    active = jnp.where(certain, 0, weighed(nats, exponent) / jnp.where(certain, 1, total))
    active = jnp.where(absent, 1, active)
    passive = as_scalar(log_zero, dtype) * jnp.where(absent, -1, jnp.expm1(-nats))
    values = as_scalar(alpha, dtype) * active + as_scalar(beta, dtype) * passive
    return zero_masked(where, nan_where_invalid(in_range, values))


def _with_constant_weight(nats: jax.Array, gamma: jax.Array) -> jax.Array:
    """`focused` with a constant power of 1 - p."""
    doubt = jax.lax.stop_gradient(-jnp.expm1(-nats))
    return jnp.where(doubt > 0, jnp.exp(gamma * jnp.log(jnp.where(doubt > 0, doubt, 1))), 0) * nats
