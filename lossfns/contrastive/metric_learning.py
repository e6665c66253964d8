"""Deep metric learning: N-pair, circle and multi-similarity losses."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from lossfns._blockwise import LogSum, keep, map_rows, product, stream
from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    check_where,
    finite,
    flag,
    keep_rows,
    loss,
    non_negative,
    optional_size,
    positive,
    sanitize,
    zero_masked,
)
from lossfns._global_batch import gather_rows, row_numbers
from lossfns.contrastive._metric import check_labelled, labelled_rows, log_one_plus, relations
from lossfns.contrastive._shared import (
    Embeddings,
    against_negatives,
    check_embeddings,
    log_sum_of_negatives,
    normalize_rows,
    row_dot,
    valid_pairs,
)


@loss(static=("axis_name", "block_size"), length_weight=non_negative, block_size=optional_size)
def n_pairs(
    anchors: jax.Array,
    positives: jax.Array,
    *,
    length_weight: float | jax.Array = 0.0,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Multi-class N-pair loss: softmax of an anchor's positive against the positives of the other pairs.

    $$\log\Bigl(1 + \sum_{j \ne i} e^{a_i \cdot p_j - a_i \cdot p_i}\Bigr) + \lambda (\|a_i\|^2 + \|p_i\|^2)$$

    The [N, N] products are never materialised.

    Args:
        anchors: [N, D], embeddings of one example of each of N classes; not normalised.
        positives: [N, D], another example of each class, in the same order.
        length_weight: $\lambda$, weight of the squared norms.
        where: [N], boolean; False excludes the pair.
        axis_name: Mapped device axis of the global batch.
        block_size: Positives per block; None chooses.

    Returns:
        [N], nats per anchor.

    Example:
        The positive scores 1, the one negative 0: log(1 + 1/e).

        >>> print(f"{n_pairs(jnp.eye(2), jnp.eye(2))[0]:.4f}")
        0.3133

    Conventions:
        Pairs are of different classes, as the paper samples them; TensorFlow Addons takes labels and splits the target
        among pairs of one class. Its weight of 0.002 on a quarter of both mean squares is 0.0005 here. With
        $\lambda = 0$ this is `info_nce`.

    References:
        Sohn 2016, Improved deep metric learning with multi-class N-pair loss objective, NeurIPS.
    """
    check_embeddings("anchors", anchors, "positives", positives)
    where = check_where(where, anchors.shape[:1])
    dtype = accumulation_dtype(anchors, positives)
    if anchors.shape[0] == 0:
        return jnp.zeros(0, dtype)
    a, p = sanitize(where, anchors, positives)
    pair = row_numbers(anchors.shape[0], axis_name)
    columns = gather_rows(Embeddings(p, pair, where), axis_name)
    log_sums = stream(log_sum_of_negatives, Embeddings(a, pair, where).as_rows, columns, block_size=block_size)
    lengths = as_scalar(length_weight, dtype) * (row_dot(a, a) + row_dot(p, p))
    return zero_masked(where, against_negatives(log_sums, row_dot(a, p)) + lengths)


@loss(
    static=("weights_gradient", "axis_name", "block_size"),
    scale=positive,
    margin=non_negative,
    weights_gradient=flag,
    block_size=optional_size,
)
def circle(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    scale: float | jax.Array = 80.0,
    margin: float | jax.Array = 0.4,
    weights_gradient: bool = False,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Circle loss: each similarity is weighted by its distance from its optimum.

    With $s_p$ and $s_n$ the cosines of anchor i with the others of its class and with other classes,

    $$\log\Bigl(1 + \sum_n e^{\gamma [s_n + m]_+ (s_n - m)} \sum_p e^{-\gamma [1 + m - s_p]_+ (s_p - 1 + m)}\Bigr)$$

    The [N, N] cosines are never materialised.

    Args:
        embeddings: [N, D]; normalised here.
        labels: [N], integers of any value; equal labels are one class.
        scale: $\gamma$.
        margin: $m$, the radius of the decision circle.
        weights_gradient: Whether gradients flow through the weights $[s_n + m]_+$ and $[1 + m - s_p]_+$.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch.
        block_size: Examples per block; None chooses.

    Returns:
        [N], nats per anchor; 0 without a positive or negative.

    Example:
        Cosines of 1 within and 0 between classes are both m from their optima: log(1 + e^(-2 gamma m^2)).

        >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> print([f"{x:.4f}" for x in circle(embeddings, jnp.array([0, 0, 1]), scale=8.0, margin=0.25)])
        ['0.3133', '0.3133', '0.0000']

    Conventions:
        The weights are constants in the paper's gradients (equation 10). The defaults are those for image retrieval;
        face recognition has scale 256 and margin 0.25. One value per anchor, as in the paper; some code takes one
        logarithm over all pairs of the batch.

    References:
        Sun et al. 2020, arXiv:2002.10857.
    """
    where = check_labelled(embeddings, labels, where)
    dtype = accumulation_dtype(embeddings)
    if labels.shape[0] == 0:
        return jnp.zeros(0, dtype)
    here = Embeddings(
        normalize_rows(where, embeddings, dtype),
        row_numbers(labels.shape[0], axis_name),
        where,
        keep_rows(where, labels),
    )
    row_inputs = here.as_rows, as_scalar(scale, dtype), as_scalar(margin, dtype)
    block = functools.partial(_on_circle, weights_gradient)
    of_positives, of_negatives = stream(block, row_inputs, gather_rows(here, axis_name), block_size=block_size)
    return zero_masked(where, jax.nn.softplus(of_positives + of_negatives))


def _on_circle(weights_gradient: bool, row_inputs: Any, columns: Embeddings, index: jax.Array) -> tuple[LogSum, LogSum]:
    rows, scale, margin = row_inputs
    assert columns.label is not None
    scores = product(columns.vectors, rows.vectors)
    of_positive, of_negative = jax.nn.relu(1 + margin - scores), jax.nn.relu(scores + margin)
    if not weights_gradient:
        of_positive, of_negative = jax.lax.stop_gradient((of_positive, of_negative))
    same = columns.label[:, None] == rows.label[None]
    positives = valid_pairs(rows, columns, same & (columns.pair[:, None] != rows.pair[None]))
    return (
        LogSum(jnp.where(positives, -scale * of_positive * (scores - (1 - margin)), -jnp.inf)),
        LogSum(jnp.where(valid_pairs(rows, columns, ~same), scale * of_negative * (scores - margin), -jnp.inf)),
    )


@loss(static=("axis_name",), alpha=positive, beta=positive, threshold=finite, mining_margin=non_negative)
def multi_similarity(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    alpha: float | jax.Array = 2.0,
    beta: float | jax.Array = 50.0,
    threshold: float | jax.Array = 1.0,
    mining_margin: float | jax.Array | None = 0.1,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Multi-similarity loss: pairs mined and weighted relative to the anchor's other pairs.

    $$\frac1\alpha \log\Bigl(1 + \sum_{p} e^{-\alpha (s_{ip} - \lambda)}\Bigr)
    + \frac1\beta \log\Bigl(1 + \sum_{n} e^{\beta (s_{in} - \lambda)}\Bigr)$$

    over the mined pairs of anchor i: negatives with $s_{in} > \min_p s_{ip} - \epsilon$ and positives with
    $s_{ip} < \max_n s_{in} + \epsilon$. The [N, N] cosines are materialised.

    Args:
        embeddings: [N, D]; normalised here.
        labels: [N], integers of any value; equal labels are one class.
        alpha: $\alpha$, the steepness for positives.
        beta: $\beta$, the steepness for negatives.
        threshold: $\lambda$, the cosine above which negatives and below which positives cost.
        mining_margin: $\epsilon$; None for all pairs.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], per anchor; with mining, 0 without a positive or negative.

    Example:
        A positive at the threshold costs log(2) / alpha, a negative far below it nothing.

        >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> print(multi_similarity(embeddings, jnp.array([0, 0, 1]), mining_margin=None).round(4)[:2])
        [0.3466 0.3466]

    Conventions:
        The defaults are the paper's. The authors' code has $\lambda = 0.5$ and $\beta = 40$, and takes positives with
        a cosine above 1 - 1e-5 as the anchor itself. Both give 0 to an anchor without mined pairs and count it.

    References:
        Wang et al. 2019, arXiv:1904.06627.
    """
    where = check_labelled(embeddings, labels, where)
    dtype = accumulation_dtype(embeddings)
    if labels.shape[0] == 0:
        return jnp.zeros(0, dtype)
    here, everyone = labelled_rows(normalize_rows(where, embeddings, dtype), labels, where, axis_name)
    steep, steep_negative, level = (as_scalar(x, dtype) for x in (alpha, beta, threshold))
    columns = everyone.vectors.T

    def both_sums(anchors: Embeddings) -> jax.Array:
        positives, negatives = relations(anchors, everyone)
        scores = keep(product(anchors.vectors, columns))
        if mining_margin is not None:
            epsilon = as_scalar(mining_margin, dtype)
            least = jnp.min(jnp.where(positives, scores, jnp.inf), axis=1, keepdims=True)
            most = jnp.max(jnp.where(negatives, scores, -jnp.inf), axis=1, keepdims=True)
            # Pairs that are not mined are far enough apart; a NaN counts as mined, so that it shows.
            positives, negatives = positives & ~(scores >= most + epsilon), negatives & ~(scores <= least - epsilon)
        values = log_one_plus(-steep * (scores - level), positives) / steep
        return values + log_one_plus(steep_negative * (scores - level), negatives) / steep_negative

    return zero_masked(where, map_rows(both_sums, here, everyone.pair.size))
