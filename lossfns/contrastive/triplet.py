"""Triplet losses: an anchor closer to its positive than to its negative, by a margin."""

import jax
import jax.numpy as jnp

from lossfns._blockwise import keep, map_rows
from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    check_where,
    flag,
    keep_rows,
    loss,
    non_negative,
    one_of,
    sanitize,
    zero_masked,
)
from lossfns.contrastive._metric import NORMS, check_labelled, distance, gap, labelled_rows, relations
from lossfns.contrastive._shared import Embeddings, check_embeddings


@loss(static=("norm", "swap"), margin=non_negative, norm=one_of(*NORMS), swap=flag)
def triplet(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    *,
    margin: float | jax.Array = 1.0,
    norm: str = "l2",
    swap: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Triplet margin loss, $\max(0,\; m + d(a, p) - d(a, n))$.

    Args:
        anchor: [N, D], embeddings; not normalised here.
        positive: [N, D], embeddings of the positives.
        negative: [N, D], embeddings of the negatives.
        margin: $m$, in units of the distance.
        norm: The distance $d$: "l2", "squared_l2" or "l1".
        swap: Whether to use the smaller of the negative's distances from anchor and positive.
        where: [N], boolean; False excludes the triplet.

    Returns:
        [N], in units of the distance.

    Example:
        The positive is at distance 5, the negative at distance 1.

        >>> print(triplet(jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 1.0]])))
        [5.]

    Conventions:
        Defaults as in torch's TripletMarginLoss, with `p` 1 or 2. torch adds 1e-6 to each entry of the difference,
        which shifts distances by up to 1e-6 times the root of D; here the distance of equal vectors is 0 with gradient
        0. FaceNet uses `norm="squared_l2"` on unit vectors and margin 0.2.

    References:
        Schroff et al. 2015, arXiv:1503.03832; Balntas et al. 2016, doi:10.5244/C.30.119 (swap).
    """
    check_embeddings("anchor", anchor, "positive", positive)
    check_embeddings("anchor", anchor, "negative", negative)
    where = check_where(where, anchor.shape[:1])
    a, p, n = sanitize(where, anchor, positive, negative)
    excess = gap(norm, a, p, n)
    if swap:
        excess = jnp.maximum(excess, gap(norm, p, a, n))
    return zero_masked(where, jax.nn.relu(as_scalar(margin, excess.dtype) + excess))


@loss(static=("norm", "axis_name"), margin=non_negative, norm=one_of(*NORMS))
def batch_hard_triplet(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: float | jax.Array | None = None,
    norm: str = "l2",
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Triplet loss of each anchor with its farthest positive and nearest negative in the batch.

    With $g_i = \max_{p} d(x_i, x_p) - \min_{n} d(x_i, x_n)$ over the others of the anchor's class p and the examples of
    other classes n, the value is $\log(1 + e^{g_i})$, or $\max(0, m + g_i)$ with a margin; 0 without a positive or
    negative. Only the selected triplets have a gradient. The [N, N] distances are never materialised.

    Args:
        embeddings: [N, D]; not normalised here.
        labels: [N], integers of any value; equal labels are one class.
        margin: $m$, in units of the distance; None for the soft margin $\log(1 + e^g)$.
        norm: The distance: "l2", "squared_l2" or "l1".
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], per anchor.

    Example:
        Points on a line: the second has its positive at distance 2 and its negative at 1. The third has no positive.

        >>> points = jnp.array([[0.0], [2.0], [3.0]])
        >>> print(batch_hard_triplet(points, jnp.array([0, 0, 1]), margin=1.0))
        [0. 2. 0.]

    Conventions:
        The soft margin and the distance, not squared, are the paper's choice. Its formula counts the anchor among its
        positives, which only affects anchors that are alone in their class: 0 here. Of tied distances the first has the
        gradient.

    References:
        Hermans et al. 2017, arXiv:1703.07737.
    """
    where = check_labelled(embeddings, labels, where)
    dtype = accumulation_dtype(embeddings)
    if labels.shape[0] == 0:
        return jnp.zeros(0, dtype)
    x = keep_rows(where, embeddings).astype(dtype)
    here, everyone = labelled_rows(x, labels, where, axis_name)
    others = jax.lax.stop_gradient(everyone.vectors)

    def choice(anchors: Embeddings) -> tuple[jax.Array, jax.Array, jax.Array]:
        positives, negatives = relations(anchors, everyone)
        table = distance(norm, anchors.vectors[:, None], others[None])
        farthest = jnp.argmax(jnp.where(positives, table, -1), axis=1)
        nearest = jnp.argmin(jnp.where(negatives, table, jnp.inf), axis=1)
        return farthest, nearest, jnp.any(positives, axis=1) & jnp.any(negatives, axis=1)

    fixed = here._replace(vectors=jax.lax.stop_gradient(x))
    # Squares are summed as they are computed; the other norms read the differences twice.
    entries = everyone.pair.size if norm == "squared_l2" else everyone.vectors.size
    farthest, nearest, has_both = map_rows(choice, fixed, entries)
    excess = gap(norm, x, everyone.vectors[farthest], everyone.vectors[nearest])
    values = jax.nn.softplus(excess) if margin is None else jax.nn.relu(as_scalar(margin, dtype) + excess)
    return zero_masked(where, jnp.where(has_both, values, 0))


@loss(static=("norm", "axis_name"), margin=non_negative, norm=one_of(*NORMS))
def semi_hard_triplet(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: float | jax.Array = 0.2,
    norm: str = "squared_l2",
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Triplet loss of each anchor and positive with the nearest negative beyond the positive.

    $$\frac{1}{|P(i)|} \sum_{p \in P(i)} \max\bigl(0,\; m + d(x_i, x_p) - d(x_i, x_{n(i, p)})\bigr)$$

    where $n(i, p)$ is the nearest negative with $d(x_i, x_n) > d(x_i, x_p)$, or the farthest negative if there is none.
    0 for an anchor without a positive or negative. Of all [N, N] tables only the indices n(i, p) are stored, for the
    gradient.

    Args:
        embeddings: [N, D]; not normalised here.
        labels: [N], integers of any value; equal labels are one class.
        margin: $m$, in units of the distance.
        norm: The distance: "l2", "squared_l2" or "l1".
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], per anchor.

    Example:
        Points on a line, each with its positive at distance 2 and the next negative at distance 3.

        >>> points = jnp.array([[0.0], [2.0], [3.0], [5.0]])
        >>> print(semi_hard_triplet(points, jnp.array([0, 0, 1, 1]), margin=2.0, norm="l2"))
        [1. 1. 1. 1.]

    Conventions:
        The default margin and squared distance are FaceNet's, on unit vectors. The paper does not define the case
        without a semi-hard negative: TensorFlow Addons takes the farthest one too. Its mean is over pairs of anchor and
        positive, here over anchors: the same for classes of equal size; otherwise weight rows by their number of
        positives.

    References:
        Schroff et al. 2015, arXiv:1503.03832.
    """
    where = check_labelled(embeddings, labels, where)
    dtype = accumulation_dtype(embeddings)
    if labels.shape[0] == 0:
        return jnp.zeros(0, dtype)
    x = keep_rows(where, embeddings).astype(dtype)
    here, everyone = labelled_rows(x, labels, where, axis_name)

    def mean_hinge(anchors: Embeddings) -> jax.Array:
        positives, negatives = relations(anchors, everyone)
        table = distance(norm, anchors.vectors[:, None], everyone.vectors[None])
        number = jnp.sum(negatives, axis=1, keepdims=True)
        chosen = keep(_next_farther(jnp.where(negatives, jax.lax.stop_gradient(table), jnp.inf), table, number))
        far = jnp.take_along_axis(table, chosen, axis=1)
        unknown = jnp.any(negatives & jnp.isnan(table), axis=1, keepdims=True)  # NaN cannot be ordered
        far = jnp.where(unknown, jnp.nan, far)
        counts = positives & (number > 0)
        hinges = jnp.where(counts, jax.nn.relu(as_scalar(margin, dtype) + table - far), 0)
        return jnp.sum(hinges, axis=1) / jnp.maximum(jnp.sum(counts, axis=1), 1).astype(dtype)

    return zero_masked(where, map_rows(mean_hinge, here, everyone.vectors.size))


def _next_farther(candidates: jax.Array, bounds: jax.Array, number: jax.Array) -> jax.Array:
    """For each bound [N, M] index of the next larger of the `number` finite candidates [N, M], else of the farthest."""
    order = jnp.argsort(candidates, axis=1)
    ascending = jnp.take_along_axis(candidates, order, axis=1)
    place = jax.vmap(lambda row, bounds: jnp.searchsorted(row, bounds, side="right"))(ascending, bounds)
    return jnp.take_along_axis(order, jnp.maximum(jnp.minimum(place, number - 1), 0), axis=1)
