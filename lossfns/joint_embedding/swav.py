"""Losses on assignments to prototypes: SwAV with Sinkhorn's codes, MSN."""

import math

import jax
import jax.numpy as jnp

from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    check_array,
    check_rank,
    check_shape,
    keep_rows,
    loss,
    non_negative,
    non_negative_int,
    positive,
    sanitize,
    zero_masked,
)
from lossfns._global_batch import count_present, largest, log_sum_rows
from lossfns._numerics import log_probabilities, log_softmax
from lossfns.joint_embedding._heads import cross_entropy, scaled


def _check_scores(name: str, scores: jax.Array, where: jax.Array | None) -> jax.Array | None:
    check_array(name, scores)
    check_rank(name, scores, 2, "[rows, prototypes]")
    if scores.shape[1] == 0:
        raise ValueError(f"{name} must have at least one prototype, got shape {scores.shape}")
    if where is not None:
        check_array("where", where, "boolean")
        check_shape("where", where, scores.shape[:1], f"of the rows of {name}")
    return where


def _balanced(log_q: jax.Array, where: jax.Array | None, iterations: int, axis_name: AxisName) -> jax.Array:
    """Sinkhorn's iterations in logarithms: columns to equal mass, then rows to mass one."""

    def one_round(_: int, log_q: jax.Array) -> jax.Array:
        columns = log_sum_rows(log_q, where, axis_name)
        return log_probabilities(log_q - jnp.where(columns == -jnp.inf, 0, columns))

    out: jax.Array = jax.lax.fori_loop(0, iterations, one_round, log_q)
    return out


def _log_codes(
    scores: jax.Array, epsilon: float | jax.Array, where: jax.Array | None, iterations: int, axis_name: AxisName
) -> jax.Array:
    """Logarithms of the codes. Iterations start at the scores, minus an offset for each column."""
    if iterations == 0:
        return log_softmax(scaled(scores, epsilon))
    above = scores - largest(scores, where, axis_name)
    return _balanced(above / as_scalar(epsilon, scores.dtype), where, iterations, axis_name)


@loss(static=("iterations", "axis_name"), epsilon=positive, iterations=non_negative_int)
def sinkhorn(
    scores: jax.Array,
    *,
    epsilon: float | jax.Array = 0.05,
    iterations: int = 3,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Codes with equal use of all prototypes (SwAV), by Sinkhorn-Knopp iterations on $e^{s / \epsilon}$.

    Each round scales the columns to equal mass, then the rows to mass one. In the limit the codes maximise
    $\sum_{nk} q_{nk} s_{nk}$ plus $\epsilon$ times their entropy, given column sums N / K.

    Args:
        scores: [N, K], cosines of the embeddings with the prototypes; finite, constants.
        epsilon: $\epsilon$; smaller gives harder codes.
        iterations: Number of rounds; 0 gives the softmax of each row.
        where: [N], boolean; False excludes the row.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N, K], the codes, without gradient; rows sum to one.

    Example:
        Both rows prefer the first prototype, by odds of $e^2$ and $e$. Used equally, it keeps odds of $e^{1/2}$ in the
        row that prefers it more.

        >>> print(sinkhorn(jnp.array([[1.0, 0.0], [0.5, 0.0]]), epsilon=0.5, iterations=20).round(4))
        [[0.6225 0.3775]
         [0.3775 0.6225]]

    Conventions:
        Computed in logarithms, so that scores of any size are finite; the authors' code exponentiates first, which
        overflows in half precision. Their three rounds begin, as here, with the columns of $e^{s / \epsilon}$, so that
        rows of higher scores first count more, and end with the rows.

    References:
        Caron et al. 2020, arXiv:2006.09882. Cuturi 2013, arXiv:1306.0895.
    """
    where = _check_scores("scores", scores, where)
    dtype = accumulation_dtype(scores)
    constants = keep_rows(where, jax.lax.stop_gradient(scores)).astype(dtype)
    if scores.shape[0] == 0:
        return constants
    return keep_rows(where, jnp.exp(_log_codes(constants, epsilon, where, iterations, axis_name)))


@loss(static=("iterations", "axis_name"), temperature=positive, epsilon=positive, iterations=non_negative_int)
def swav(
    scores_a: jax.Array,
    scores_b: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
    epsilon: float | jax.Array = 0.05,
    iterations: int = 3,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Prediction of each view's code from the other view's scores (SwAV).

    $$-\frac{1}{2} \sum_k \left( q^b_k \log p^a_k + q^a_k \log p^b_k \right), \quad p = \mathrm{softmax}(s / \tau)$$

    with codes $q$ of each view by `sinkhorn`; constants.

    Args:
        scores_a: [N, K], cosines of the first views' embeddings with the prototypes.
        scores_b: [N, K], cosines of the second views, in the same order.
        temperature: $\tau$.
        epsilon: Entropy weight of the codes.
        iterations: Rounds of `sinkhorn`.
        where: [N], boolean; False excludes the pair.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], nats per pair.

    Example:
        All codes and predictions are uniform and cost log 2.

        >>> print(swav(jnp.zeros((3, 2)), jnp.zeros((3, 2))).round(4))
        [0.6931 0.6931 0.6931]

    Conventions:
        - The mean of both directions, as in the authors' code; the paper's equation adds them.
        - Multi-crop: codes of the two large crops by `sinkhorn`, and for every other crop
          `soft_cross_entropy(scores / temperature, codes)`.
        - A queue of earlier embeddings: put its scores before the batch's in `sinkhorn` and keep the last N codes.

    References:
        Caron et al. 2020, arXiv:2006.09882.
    """
    where = _check_scores("scores_a", scores_a, where)
    check_shape("scores_b", check_array("scores_b", scores_b), scores_a.shape, "of scores_a")
    scores = sanitize(where, scores_a, scores_b)
    if scores_a.shape[0] == 0:
        return jnp.zeros(0, scores[0].dtype)
    codes = [
        jax.lax.stop_gradient(_log_codes(jax.lax.stop_gradient(x), epsilon, where, iterations, axis_name))
        for x in scores
    ]
    values = [cross_entropy(scaled(x, temperature), log_q) for x, log_q in zip(scores, reversed(codes), strict=True)]
    return zero_masked(where, (values[0] + values[1]) / 2)


@loss(
    static=("sinkhorn_iterations", "axis_name"),
    temperature=positive,
    target_temperature=positive,
    entropy_weight=non_negative,
    sinkhorn_iterations=non_negative_int,
)
def msn(
    scores: jax.Array,
    target_scores: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
    target_temperature: float | jax.Array = 0.025,
    entropy_weight: float | jax.Array = 1.0,
    sinkhorn_iterations: int = 0,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Prediction of an image's prototypes from a masked view, with all prototypes in use (MSN).

    $$-\sum_k p^+_k \log p_k + \lambda \left( \log K - H(\bar p) \right), \quad p = \mathrm{softmax}(s / \tau), \quad
    p^+ = \mathrm{softmax}(s^+ / \tau^+)$$

    with $H(\bar p)$ the entropy of the mean prediction over the batch.

    Args:
        scores: [N, K], cosines $s$ of the masked views' embeddings with the prototypes.
        target_scores: [N, K], cosines $s^+$ of the whole views' embeddings with the same prototypes; constants.
        temperature: $\tau$.
        target_temperature: $\tau^+$, smaller than $\tau$, which sharpens the targets.
        entropy_weight: $\lambda$.
        sinkhorn_iterations: Rounds of `sinkhorn` applied to the targets $p^+$; 0 for none.
        where: [N], boolean; False excludes the row.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], nats per row; the entropy term is the same in all.

    Example:
        Cosines of 0: predictions, targets and their mean are uniform.

        >>> print(msn(jnp.zeros((2, 2)), jnp.zeros((2, 2))).round(4))
        [0.6931 0.6931]

        Both rows are certain of the same prototype: cross-entropy 0, but the mean has no entropy.

        >>> print(msn(jnp.array([[9.0, 0.0]] * 2), jnp.array([[9.0, 0.0]] * 2)).round(4))
        [0.6931 0.6931]

    Conventions:
        - $\log K$ is from the authors' code and makes the term at least 0; the paper has $-\lambda H(\bar p)$.
        - The authors' code sharpens probabilities by a power of 1/T with T = 0.25: a target temperature of 0.25 times
          `temperature`.
        - Several masked views of an image are separate rows with the target repeated; the mean is over all of them.

    References:
        Assran et al. 2022, arXiv:2204.07141.
    """
    where = _check_scores("scores", scores, where)
    check_shape("target_scores", check_array("target_scores", target_scores), scores.shape, "of scores")
    dtype = accumulation_dtype(scores, target_scores)
    if scores.shape[0] == 0:
        return jnp.zeros(0, dtype)
    logits = scaled(keep_rows(where, scores).astype(dtype), temperature)
    targets = keep_rows(where, jax.lax.stop_gradient(target_scores)).astype(dtype)
    targets = scaled(targets, target_temperature)
    if sinkhorn_iterations:
        targets = _balanced(log_softmax(targets), where, sinkhorn_iterations, axis_name)
    values = cross_entropy(logits, targets)

    count = count_present(where, logits, axis_name)
    log_mean = log_sum_rows(log_softmax(logits), where, axis_name) - jnp.log(jnp.maximum(count, 1))
    used = log_mean != -jnp.inf
    log_mean = jnp.where(used, log_mean, 0)
    entropy = -jnp.sum(jnp.where(used, jnp.exp(log_mean) * log_mean, 0))
    values += as_scalar(entropy_weight, dtype) * (math.log(scores.shape[1]) - entropy)
    return zero_masked(where, values)
