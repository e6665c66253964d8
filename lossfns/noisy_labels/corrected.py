"""Losses that correct noisy labels by the model's predictions, a noise model, or early predictions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_array,
    check_labels,
    check_shape,
    keep_rows,
    loss,
    nan_where_invalid,
    non_negative,
    one_of,
    probability,
    zero_masked,
)
from lossfns._numerics import at_label, log_normalizer, log_probabilities, row_shift
from lossfns.classification.cross_entropy import softmax_cross_entropy

# Tolerance for probabilities summing to one, which allows rounding to bfloat16.
_SLACK = 0.02


@loss(static=("form",), beta=probability, form=one_of("soft", "hard"))
def bootstrapped(
    logits: jax.Array,
    labels: jax.Array,
    *,
    beta: float | jax.Array = 0.95,
    form: str = "soft",
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Cross-entropy with labels mixed with the model's own predictions (bootstrapping).

    $$-\sum_k (\beta [k = y] + (1 - \beta) z_k) \log p_k, \quad p = \mathrm{softmax}(x)$$

    with z = p ("soft"), which minimises entropy too, or z one-hot at the most probable class ("hard").

    Args:
        logits: [..., V], unnormalised log-probabilities in nats; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1.
        beta: $\beta$ in 0 .. 1, weight of the label; 1 is the cross-entropy.
        form: "soft" or "hard".
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row. A label of a masked class gives inf.

    Example:
        Odds of 3 to 1 against the label: the mean of log 4 and log(4/3).

        >>> logits = jnp.log(jnp.array([[1.0, 3.0]]))
        >>> [round(float(v), 4) for v in bootstrapped(logits, jnp.array([0]), beta=0.5, form="hard")]
        [0.837]

    Conventions:
        The paper has beta = 0.95 for the soft form and 0.8 for the hard one.

    References:
        Reed et al. 2014, arXiv:1412.6596.
    """
    # Both terms in float32 from here, so that they combine in one gradient before rounding.
    dtype = accumulation_dtype(check_array("logits", logits))
    x = logits.astype(dtype)
    given = softmax_cross_entropy(x, labels, where=where)
    log_p = log_probabilities(keep_rows(where, x))
    if form == "soft":
        believed = -jnp.sum(jnp.exp(log_p) * jnp.where(log_p == -jnp.inf, 0, log_p), axis=-1)
    else:
        believed = -jnp.max(log_p, axis=-1)
    weight = as_scalar(beta, dtype)
    return zero_masked(where, weight * given + (1 - weight) * believed)


@loss()
def forward_corrected(
    logits: jax.Array, labels: jax.Array, transition: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    r"""Forward correction: cross-entropy of noisy labels with the prediction passed through a noise model.

    $$-\log \sum_k p_k T_{k y}, \quad p = \mathrm{softmax}(x)$$

    Args:
        logits: [..., V], unnormalised log-probabilities in nats of the clean class; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1, the noisy labels.
        transition: [V, V], $T_{k j}$ the probability of label j for class k; rows sum to one. It has a gradient, 0 at
            zeros.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row; inf for a label that no possible class can give. A transition with a negative entry, or a
        row that does not sum to one (up to 0.02), gives NaN in every row.

    Example:
        Certain of class 0, labelled correctly in 3 of 4 cases: log(4/3) for label 0, log 4 for label 1.

        >>> noise = jnp.array([[0.75, 0.25], [0.25, 0.75]])
        >>> logits = jnp.array([[0.0, -jnp.inf], [0.0, -jnp.inf]])
        >>> print(forward_corrected(logits, jnp.array([0, 1]), noise).round(4))
        [0.2877 1.3863]

    Conventions:
        Some code has the transposed matrix; it gives NaN here unless the rows sum to one too. With the identity it is
        the cross-entropy.

    References:
        Patrini et al. 2016, arXiv:1609.03683.
    """
    labels, in_range, where = check_labels(logits, labels, where)
    check_array("transition", transition)
    classes = logits.shape[-1]
    check_shape("transition", transition, (classes, classes), f"of {classes} by {classes} classes")
    dtype = accumulation_dtype(logits, transition)
    noise = transition.astype(dtype)
    sound = jnp.all(noise >= 0) & jnp.all(jnp.abs(jnp.sum(noise, axis=-1) - 1) <= _SLACK)
    to_label = jnp.take(noise.T, labels, axis=0, mode="clip")
    log_p = log_probabilities(keep_rows(where, logits).astype(dtype))
    possible = to_label > 0
    joint = jnp.where(possible, log_p + jnp.log(jnp.where(possible, to_label, 1)), -jnp.inf)
    _, shift = row_shift(joint)
    values = -(log_normalizer(joint, shift) + shift[..., 0])
    return zero_masked(where, nan_where_invalid(in_range & sound, values))


class EarlyLearning(NamedTuple):
    """Result of `early_learning`."""

    values: jax.Array
    """[...], the loss of each row."""
    targets: jax.Array
    """[..., V], the new running means of these examples' predictions."""


@loss(strength=non_negative, momentum=probability)
def early_learning(
    logits: jax.Array,
    labels: jax.Array,
    targets: jax.Array,
    *,
    strength: float | jax.Array = 3.0,
    momentum: float | jax.Array = 0.7,
    where: jax.Array | None = None,
) -> EarlyLearning:
    r"""Early-learning regularisation (ELR): cross-entropy regularised towards earlier predictions.

    $$-\log p_y + \lambda \log(1 - \langle p, t' \rangle), \quad t' = \beta t + (1 - \beta) p$$

    with $p = \mathrm{softmax}(x)$ and constant t'. The caller keeps targets [examples, V], initially 0, passes the
    rows of the batch and stores the new ones, `state = state.at[index].set(out.targets)`.

    Args:
        logits: [..., V], unnormalised log-probabilities in nats; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1.
        targets: [..., V], running means t of these examples' predictions, floating, at least 0 and summing to at most
            one; no gradient.
        strength: $\lambda$.
        momentum: $\beta$, weight of the old targets.
        where: [...], boolean; False excludes the row and keeps its targets.

    Returns:
        `values` [...] and `targets` [..., V]. For $\lambda > 0$ the values are unbounded below. Targets that are
        negative or sum to more than one (up to 0.02) give NaN.

    Example:
        At equal odds and momentum 1/2 the first targets are 1/4 each, and the loss is log 2 + 3 log(1 - 1/4).

        >>> out = early_learning(jnp.zeros((1, 2)), jnp.array([0]), jnp.zeros((1, 2)), momentum=0.5)
        >>> print(out.values.round(4), out.targets)
        [-0.1699] [[0.25 0.25]]

    Conventions:
        As in the authors' code the targets are updated before use. That code clips probabilities at 1e-4 and 1 - 1e-4,
        which cuts off the gradient of certain rows; here the logarithm is exact. CIFAR-10 in the paper has strength 3
        and momentum 0.7, CIFAR-100 7 and 0.9.

    References:
        Liu et al. 2020, arXiv:2007.00151.
    """
    check_array("logits", logits)
    check_array("targets", targets)
    check_shape("targets", targets, logits.shape, "of logits")
    # All terms in float32 from here, so that they combine in one gradient before rounding.
    dtype = accumulation_dtype(logits, targets)
    x = logits.astype(dtype)
    nats = softmax_cross_entropy(x, labels, where=where)
    given = jax.lax.stop_gradient(targets).astype(dtype)
    old = keep_rows(where, given)
    sound = jnp.all(old >= 0, axis=-1) & (jnp.sum(old, axis=-1) <= 1 + _SLACK)
    log_p = log_probabilities(keep_rows(where, x))
    kept = as_scalar(momentum, dtype)
    p = jax.lax.stop_gradient(jnp.exp(log_p))
    new = kept * old + (1 - kept) * p
    # 1 - <p, t> = sum_k p_k (1 - t_k) in the log domain does not cancel as p and t become certain; nor does 1 - p of
    # the most probable class, computed as the sum of the others.
    is_best = at_label(jnp.argmax(p, axis=-1), p.shape[-1])
    doubted = jnp.where(is_best, jnp.sum(jnp.where(is_best, 0, p), axis=-1, keepdims=True), 1 - p)
    rest = kept * (1 - old) + (1 - kept) * doubted
    open_to = rest > 0
    doubt = jnp.where(open_to, log_p + jnp.log(jnp.where(open_to, rest, 1)), -jnp.inf)
    _, shift = row_shift(doubt)
    penalty = log_normalizer(doubt, shift) + shift[..., 0]
    values = nats + as_scalar(strength, dtype) * penalty
    stored = new if where is None else jnp.where(where[..., None], new, given)
    return EarlyLearning(zero_masked(where, nan_where_invalid(sound, values)), stored)
