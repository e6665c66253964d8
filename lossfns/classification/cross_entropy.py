"""Cross-entropies on logits: integer labels, dense targets, independent binary labels."""

import functools

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_classes,
    check_labels,
    entries,
    keep_rows,
    loss,
    nan_where_invalid,
    non_negative,
    non_negative_or_off,
    one_of,
    positive,
    prepare,
    probability_or_off,
    zero_masked,
)
from lossfns._numerics import at_label, log_normalizer, row_shift, soft_capped, softmax


@loss(
    static=("smoothing_over",),
    label_smoothing=probability_or_off,
    smoothing_over=one_of("all", "others"),
    z_loss=non_negative_or_off,
    soft_cap=positive,
)
def softmax_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: float | jax.Array = 0.0,
    smoothing_over: str = "all",
    z_loss: float | jax.Array = 0.0,
    soft_cap: float | jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Cross-entropy of a softmax with integer labels.

    $$-\log p_y, \quad p = \mathrm{softmax}(x)$$

    With label smoothing $\epsilon$ the target is $(1 - \epsilon)$ at the label plus $\epsilon$ spread evenly; the
    z-loss adds $\zeta \log^2 \sum_k e^{x_k}$; a soft cap $c$ first replaces the logits by $c \tanh(x / c)$.

    Args:
        logits: [..., V], unnormalised log-probabilities in nats. A class at -inf is masked: it has probability 0 and is
            excluded from label smoothing.
        labels: [...], integers in 0 .. V-1.
        label_smoothing: Mass $\epsilon$ in 0 .. 1 taken from the label.
        smoothing_over: "all" spreads that mass over all V classes, including the label; "others" over the other V-1.
        z_loss: Coefficient $\zeta$ of the squared log-normaliser.
        soft_cap: Bound $c$ on the magnitude of the logits; None for no bound.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row. A label outside 0 .. V-1 gives NaN; negative labels do not index from the end. A label of a
        masked class gives inf, and so does an infinite logit of another class; an infinite logit of the label gives 0.

    Example:
        Two classes at equal odds cost log 2; odds of 3 to 1 cost log(4/3).

        >>> logits = jnp.log(jnp.array([[1.0, 1.0], [3.0, 1.0]]))
        >>> print(softmax_cross_entropy(logits, jnp.array([0, 0])).round(4))
        [0.6931 0.2877]

    Conventions:
        - Smoothing over "all" matches Szegedy et al., torch and Optax. T5X smooths over the others and subtracts the
          entropy of the smoothed target, a constant, so that the minimum is 0; "others" does not subtract it.
        - torch's class weights also normalise the mean: pass `class_weights[labels]` as the term's weights. With label
          smoothing torch instead weights each class of the smoothed target q: its mean is the sum of
          `soft_cross_entropy(logits, class_weights * q)` divided by the sum of `class_weights[labels]`.
        - For torch's `ignore_index=-100` pass `where=labels != -100`.
        - Optax takes a label of -1 as the last class.

    References:
        Szegedy et al. 2016, arXiv:1512.00567 (label smoothing). Chowdhery et al. 2022, arXiv:2204.02311 (z-loss). Gemma
        Team 2024, arXiv:2408.00118 (soft cap).
    """
    labels, in_range, where = check_labels(logits, labels, where)
    rows = jnp.ones(labels.shape, bool) if where is None else where

    dtype = accumulation_dtype(logits)
    if soft_cap is not None:
        logits = soft_capped(keep_rows(where, logits).astype(dtype), as_scalar(soft_cap, dtype))
    over = None if label_smoothing is None else smoothing_over
    label, log_z, top, shift, mean, _ = _label_and_normalizer(logits, labels, rows, over)
    finite = ~jnp.isinf(top)
    extras = label_smoothing is not None or z_loss is not None
    values = log_z - (label - shift)
    if label_smoothing is not None:
        values += as_scalar(label_smoothing, dtype) * keep_rows(rows & finite, label - shift - mean)
    if z_loss is not None:
        values += as_scalar(z_loss, dtype) * jnp.square(keep_rows(rows & finite, log_z + shift))
    # A logit of +inf is the limit: that class has all of the probability. If all are -inf, no class has any.
    values = jnp.where(finite, values, jnp.inf if extras else jnp.where(label == jnp.inf, 0, jnp.inf))
    return zero_masked(where, nan_where_invalid(in_range, values))


@loss()
def soft_cross_entropy(logits: jax.Array, targets: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Cross-entropy of a softmax with dense targets, $-\sum_k t_k \log p_k$ with $p = \mathrm{softmax}(x)$.

    Args:
        logits: [..., V], unnormalised log-probabilities in nats. A class at -inf is masked: with target 0 it costs
            nothing.
        targets: [..., V], probabilities, any real dtype; they need not sum to one, and may carry a gradient.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row. A positive target of a masked class gives inf, a negative target NaN.

    Example:
        Equal odds against a one-hot and a uniform target cost log 2 each.

        >>> targets = jnp.array([[1.0, 0.0], [0.5, 0.5]])
        >>> print(soft_cross_entropy(jnp.zeros((2, 2)), targets).round(4))
        [0.6931 0.6931]

    Conventions:
        The gradient of the logits is $p \sum_k t_k - t$; code that assumes normalised targets computes $p - t$.

    References:
        Hinton et al. 2015, arXiv:1503.02531 (soft targets).
    """
    where, (x, targets) = prepare(where, row_axes=1, others="real", logits=logits, targets=targets)
    check_classes("logits", x)
    top, shift = row_shift(x)
    finite = ~jnp.isinf(top)
    # A class at -inf is dropped from the product but not from the targets' gradient; one at +inf has all probability.
    lost = jnp.any((targets != 0) & jnp.where(finite, x == -jnp.inf, x < jnp.inf), axis=-1)
    x = jnp.where(finite, x, 0)
    inside = jnp.sum(jnp.where(x == -jnp.inf, 0, x - shift) * targets, axis=-1)
    values = log_normalizer(x, shift) * jnp.sum(targets, axis=-1) - inside
    values = jnp.where(lost, jnp.inf, jnp.where(finite[..., 0], values, 0))
    return zero_masked(where, nan_where_invalid(jnp.all(targets >= 0, axis=-1), values))


@loss(label_smoothing=probability_or_off, positive_weight=non_negative.each)
def sigmoid_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    label_smoothing: float | jax.Array = 0.0,
    positive_weight: float | jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Binary cross-entropy of independent sigmoids.

    $$-w\, t \log \sigma(x) - (1 - t) \log(1 - \sigma(x))$$

    with $t$ replaced by $(1 - \epsilon) t + \epsilon / 2$ under label smoothing.

    Args:
        logits: [...], log-odds in nats.
        targets: [...], the same shape, 0 or 1 or a probability between; any real dtype.
        label_smoothing: Mass $\epsilon$ in 0 .. 1, spread over both classes.
        positive_weight: Weight $w$ of the positive part: a scalar, or an array that broadcasts to the logits (one
            weight per class on the last axis); None is one.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], nats per entry; sum or average several labels of an example with the term's weights. A target outside
        0 .. 1 gives NaN.

    Example:
        Equal odds cost log 2; odds of 3 to 1 for a positive cost log(4/3).

        >>> print(sigmoid_cross_entropy(jnp.log(jnp.array([1.0, 3.0])), jnp.array([0, 1])).round(4))
        [0.6931 0.2877]

    Conventions:
        `positive_weight` is torch's `pos_weight`: it weights the positive part and does not change the denominator of
        the mean. Smoothing towards 1/2 is Keras's.
    """
    where, (x, targets) = prepare(where, others="real", logits=logits, targets=targets)
    targets = jnp.where((targets >= 0) & (targets <= 1), targets, jnp.nan)
    if label_smoothing is not None:
        epsilon = as_scalar(label_smoothing, x.dtype)
        targets = (1 - epsilon) * targets + epsilon / 2
    for_positive, for_negative = targets, 1 - targets
    if positive_weight is not None:
        for_positive *= entries("positive_weight", positive_weight, non_negative, x, where)
    # An infinite logit costs 0 if right and infinity if wrong; 0 times infinity would be NaN.
    infinite = jnp.isinf(x)
    wrong = jax.lax.stop_gradient(jnp.where(x > 0, for_negative, for_positive))
    x = jnp.where(infinite, 0, x)
    values = for_positive * jax.nn.softplus(-x) + for_negative * jax.nn.softplus(x)
    return zero_masked(where, jnp.where(infinite, jnp.where(wrong == 0, 0, wrong * jnp.inf), values))


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _label_and_normalizer(
    logits: jax.Array, labels: jax.Array, rows: jax.Array, over: str | None
) -> tuple[jax.Array, ...]:
    """Returns the label's logit, log sum exp(x - shift), row maximum, shift, and mean and number of x - shift.

    The mean is over the classes smoothed over ("all" or the "others"), 0 for None. A single derivative rule combines
    softmax, one-hot label and smoothing in float32 before rounding to the logits' dtype (separately, p - 1 has 40 times
    the error in bfloat16 near p = 1), and reads half-precision logits and masks in place, without a float32 copy.
    """
    top, shift = row_shift(logits)
    label = jnp.take_along_axis(logits, labels[..., None], axis=-1, mode="clip")[..., 0].astype(shift.dtype)
    x = logits.astype(shift.dtype)
    mean = count = jnp.zeros_like(label)
    if over is not None:
        mean, count = _mean_reached(x, labels, label - shift[..., 0], shift, over)
    return label, log_normalizer(x, shift), top[..., 0], shift[..., 0], mean, count


@_label_and_normalizer.defjvp
def _label_and_normalizer_jvp(over, primals, tangents):  # type: ignore[no-untyped-def]
    logits, labels, rows = primals
    out = _, log_z, top, shift, _, count = _label_and_normalizer(logits, labels, rows, over)
    rows &= ~jnp.isinf(top)
    x = keep_rows(rows, logits.astype(shift.dtype))
    dx = keep_rows(rows, tangents[0].astype(shift.dtype))
    p = softmax(x, keep_rows(rows, shift)[..., None], keep_rows(rows, log_z))
    is_label = at_label(labels, x.shape[-1])
    zero = jnp.zeros_like(top)
    at_labels, mean = jnp.sum(jnp.where(is_label, dx, 0), axis=-1), zero
    if over is not None:
        reached = (x > -jnp.inf) & (~is_label if over == "others" else True)
        mean = jnp.sum(jnp.where(reached, dx, 0), axis=-1) / jnp.maximum(count, 1)
        mean = jnp.where(count == 0, at_labels, mean)
    return out, (at_labels, jnp.sum(p * dx, axis=-1), zero, zero, mean, zero)


def _mean_reached(
    x: jax.Array, labels: jax.Array, own: jax.Array, shift: jax.Array, over: str
) -> tuple[jax.Array, jax.Array]:
    """Mean of x - shift over the smoothed classes, and their number; without any, `own`, the label's x - shift.

    Without a class at -inf it is a plain sum, which XLA on CPU computes without a copy of the logits as long as the
    normaliser does not use the same difference: hence shift - x.
    """
    others = over == "others"
    total, classes = -jnp.sum(shift - x, axis=-1), x.shape[-1] - others

    def none_masked() -> tuple[jax.Array, jax.Array]:
        mean = (total - own if others else total) / classes if classes else own
        return mean, jnp.full_like(own, classes)

    def some_masked() -> tuple[jax.Array, jax.Array]:
        reached = (x > -jnp.inf) & (~at_label(labels, x.shape[-1]) if others else True)
        count = jnp.sum(reached, axis=-1, dtype=x.dtype)
        mean = jnp.sum(jnp.where(reached, x - shift, 0), axis=-1) / jnp.maximum(count, 1)
        return jnp.where(count == 0, own, mean), count

    out: tuple[jax.Array, jax.Array] = jax.lax.cond(jnp.all(jnp.isfinite(total)), none_masked, some_masked)
    return out
