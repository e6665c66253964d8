"""Long-tailed labels: cross-entropies adjusted by class frequencies."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_array,
    check_classes,
    check_labels,
    check_rank,
    check_shape,
    keep_rows,
    loss,
    non_negative,
    positive,
    probability,
)
from lossfns._numerics import at_label, row_shift
from lossfns.classification.cross_entropy import softmax_cross_entropy


@loss(tau=non_negative)
def logit_adjusted(
    logits: jax.Array,
    labels: jax.Array,
    class_counts: jax.Array,
    *,
    tau: float | jax.Array = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Logit-adjusted cross-entropy: the log class frequencies are added to the logits.

    $$-\log \frac{\pi_y^\tau e^{x_y}}{\sum_k \pi_k^\tau e^{x_k}}, \quad \pi_k = \frac{n_k}{\sum_j n_j}$$

    Adjust in training only: at test time the plain logits are those for balanced classes.

    Args:
        logits: [..., V], unnormalised log-probabilities in nats; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1.
        class_counts: [V], examples per class $n_k$ or frequencies, any real dtype. A class with count 0 is masked.
        tau: Strength $\tau$; 0 is the cross-entropy.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row. A label of a masked class gives inf. Counts that are negative, not finite or all 0 give NaN
        in every row.

    Example:
        Equal logits give each class its frequency: log 4 for the rarer one.

        >>> print(logit_adjusted(jnp.zeros((2, 2)), jnp.array([0, 1]), jnp.array([30, 10])).round(4))
        [0.2877 1.3863]

    Conventions:
        With $\tau = 1$ it is `balanced_softmax`.

    References:
        Menon et al. 2020, arXiv:2007.07314.
    """
    _, _, where = check_labels(logits, labels, where)
    dtype = accumulation_dtype(logits)
    counts = _check_counts(class_counts, logits, dtype)
    total = jnp.sum(counts)
    strength = as_scalar(tau, dtype)
    present = counts > 0
    log_share = jnp.log(jnp.where(present, counts, 1)) - jnp.log(total)
    adjustment = jnp.where(present, strength * log_share, jnp.where(strength == 0, 0, -jnp.inf))
    adjustment = jnp.where(total > 0, adjustment, jnp.nan)
    x = keep_rows(where, logits)
    adjusted = x.astype(dtype) - row_shift(x)[1] + jnp.broadcast_to(adjustment, logits.shape)
    return softmax_cross_entropy(adjusted, labels, where=where)


@loss()
def balanced_softmax(
    logits: jax.Array, labels: jax.Array, class_counts: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    r"""Balanced softmax: cross-entropy of a softmax with exponentials weighted by class counts.

    $$-\log \frac{n_y e^{x_y}}{\sum_k n_k e^{x_k}}$$

    Args:
        logits: [..., V], unnormalised log-probabilities in nats; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1.
        class_counts: [V], examples per class $n_k$, any real dtype. A class with count 0 is masked.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row. A label of a masked class gives inf. Counts that are negative, not finite or all 0 give NaN
        in every row.

    Example:
        Equal logits give each class its frequency: log 4 for the rarer one.

        >>> print(balanced_softmax(jnp.zeros((2, 2)), jnp.array([0, 1]), jnp.array([30, 10])).round(4))
        [0.2877 1.3863]

    Conventions:
        `logit_adjusted` with $\tau = 1$. Pass weights from the authors' meta sampler as the term's weights.

    References:
        Ren et al. 2020, arXiv:2007.10740.
    """
    return logit_adjusted(logits, labels, class_counts, where=where)


@loss(max_margin=non_negative, scale=positive)
def ldam(
    logits: jax.Array,
    labels: jax.Array,
    class_counts: jax.Array,
    *,
    max_margin: float | jax.Array = 0.5,
    scale: float | jax.Array = 30.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Cross-entropy with a larger margin for rarer labels (LDAM).

    $$-\log \frac{e^{s (x_y - \Delta_y)}}{e^{s (x_y - \Delta_y)} + \sum_{k \ne y} e^{s x_k}}, \quad
    \Delta_k = C \left(\frac{\min_j n_j}{n_k}\right)^{1/4}$$

    Args:
        logits: [..., V], cosines between features and class vectors in the paper; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1.
        class_counts: [V], examples per class $n_k$, any real dtype. The minimum is over counts above 0.
        max_margin: C, the margin of the rarest class.
        scale: s, multiplies the logits after the margin; an inverse temperature.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row. A label of a class without examples gives NaN, and a count that is negative or not finite
        gives NaN in every row.

    Example:
        A class with 16 times the examples of the rarest has half its margin: log(1 + e^0.25) and log(1 + e^0.5).

        >>> counts = jnp.array([160, 10])
        >>> [round(float(v), 4) for v in ldam(jnp.zeros((2, 2)), jnp.array([0, 1]), counts, scale=1.0)]
        [0.8259, 0.9741]

    Conventions:
        The defaults are the authors', for a last layer with unit features and unit class vectors. Their deferred
        re-weighting is a schedule of the term's weights, `class_balanced_weights(...)[labels]`.

    References:
        Cao et al. 2019, arXiv:1906.07413.
    """
    safe_labels, _, where = check_labels(logits, labels, where)
    dtype = accumulation_dtype(logits)
    counts = _check_counts(class_counts, logits, dtype)
    present = ~(counts <= 0)
    rarest = jnp.min(jnp.where(present, counts, jnp.inf))
    margins = as_scalar(max_margin, dtype) * jnp.sqrt(jnp.sqrt(rarest / jnp.where(present, counts, rarest)))
    margins = jnp.broadcast_to(jnp.where(present, margins, jnp.nan), logits.shape)
    x = keep_rows(where, logits)
    x = x.astype(dtype) - row_shift(x)[1]
    x = jnp.where(at_label(safe_labels, x.shape[-1]), x - margins, x)
    return softmax_cross_entropy(as_scalar(scale, dtype) * x, labels, where=where)


@loss(beta=probability)
def class_balanced_weights(class_counts: jax.Array, *, beta: float | jax.Array = 0.9999) -> jax.Array:
    r"""Class weights from the effective number of examples.

    $$w_k \propto \frac{1 - \beta}{1 - \beta^{n_k}}$$

    scaled to mean 1 over the classes that occur. Use `class_balanced_weights(counts)[labels]` as the term's weights, or
    multiply the values of any loss by it.

    Args:
        class_counts: [V], examples per class $n_k$, any real dtype.
        beta: $\beta$ in 0 .. 1; 0 gives equal weights, 1 inverse frequencies.

    Returns:
        [V]; 0 for a class without examples. NaN for all if a count is negative or not finite.

    Example:
        With beta = 1/2 the effective numbers are 1 and 3/2: weights in the ratio 3 to 2.

        >>> [round(float(w), 4) for w in class_balanced_weights(jnp.array([1, 2, 0]), beta=0.5)]
        [1.2, 0.8, 0.0]

    Conventions:
        The authors scale them to sum to V, which is the same if every class occurs.

    References:
        Cui et al. 2019, arXiv:1901.05555.
    """
    check_array("class_counts", class_counts, "real")
    check_rank("class_counts", class_counts, 1, "[classes]")
    dtype = accumulation_dtype(class_counts)
    counts = _sound_counts(class_counts.astype(dtype))
    share_kept = as_scalar(beta, dtype)
    present = ~(counts <= 0)
    some = jnp.where(present, counts, 1)
    effective = jnp.where(share_kept == 1, some, -jnp.expm1(some * jnp.log(share_kept)))
    weights = jnp.where(present, 1 / effective, 0)
    total = jnp.sum(weights)
    return weights * (jnp.sum(present, dtype=dtype) / jnp.where(total == 0, 1, total))


def _check_counts(class_counts: jax.Array, logits: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the class counts as floats; all NaN if one is negative or not finite."""
    check_array("class_counts", class_counts, "real")
    check_classes("logits", logits)
    check_rank("class_counts", class_counts, 1, "[classes]")
    check_shape("class_counts", class_counts, logits.shape[-1:], f"of the classes of logits {logits.shape}")
    return _sound_counts(class_counts.astype(dtype))


def _sound_counts(counts: jax.Array) -> jax.Array:
    """The counts; all NaN if one is negative or not finite."""
    return jnp.where(jnp.all((counts >= 0) & (counts < jnp.inf)), counts, jnp.nan)
