"""Set prediction (DETR): bipartite matching of objects and queries, and the losses of the matched pairs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_array,
    check_rank,
    check_shape,
    check_where,
    keep_rows,
    loss,
    non_negative,
    one_of,
    zero_masked,
)
from lossfns._numerics import log_probabilities, vary_like
from lossfns.classification.cross_entropy import softmax_cross_entropy
from lossfns.detection.boxes import check_boxes, corners, generalized_cost, scaled_pair

Path = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


class SetPrediction(NamedTuple):
    """The three terms of DETR's loss, each with its weights."""

    classification: jax.Array
    """[N, Q], nats: cross-entropy of each query with its object's class or with "no object"."""
    query_weights: jax.Array
    """[N, Q]: 1 for a matched query, `no_object_weight` for an unmatched one, 0 in masked examples."""
    distance: jax.Array
    """[N, M]: L1 distance of each object's box; 0 at padding."""
    giou: jax.Array
    """[N, M]: generalised IoU loss of each object's box; 0 at padding."""
    object_weights: jax.Array
    """[N, M]: 1 for an object, 0 for padding."""
    matched: jax.Array
    """[N, M], integers: the query of each object, -1 at padding."""


@loss(
    static=("layout",),
    class_cost=non_negative,
    distance_cost=non_negative,
    giou_cost=non_negative,
    no_object_weight=non_negative,
    layout=one_of("corners", "centre"),
)
def set_prediction(
    logits: jax.Array,
    boxes: jax.Array,
    labels: jax.Array,
    target_boxes: jax.Array,
    *,
    class_cost: float | jax.Array = 1.0,
    distance_cost: float | jax.Array = 5.0,
    giou_cost: float | jax.Array = 2.0,
    no_object_weight: float | jax.Array = 0.1,
    layout: str = "centre",
    valid: jax.Array | None = None,
    where: jax.Array | None = None,
) -> SetPrediction:
    r"""DETR's set prediction: matches objects to queries at minimal total cost and returns the losses.

    The matching $\sigma$ minimises, over assignments of distinct queries to the objects of an example,

    $$\sum_i -c_p\, p_{\sigma(i)}(y_i) + c_1 \lVert b_{\sigma(i)} - b_i \rVert_1 + c_g\, \mathrm{GIoU\ loss}$$

    and has no gradient. The losses are the cross-entropy of every query, with its object's class or "no object", and
    two box losses of every object. Their denominators differ, so they are returned separately: the paper's loss is the
    sum of three weighted means,

    `mean(classification, query_weights) + 5 * mean(distance, object_weights) + 2 * mean(giou, object_weights)`.

    Args:
        logits: [N, Q, C + 1], class logits of each query; the last class is "no object".
        boxes: [N, Q, 4], predicted boxes, relative to the image.
        labels: [N, M], integers in 0 .. C-1; at most Q objects.
        target_boxes: [N, M, 4], true boxes, any real dtype.
        class_cost: $c_p$.
        distance_cost: $c_1$.
        giou_cost: $c_g$.
        no_object_weight: Weight of unmatched queries, the majority, in the mean of cross-entropies.
        layout: "centre" for centre x, centre y, width, height, as in the paper; "corners" for x1, y1, x2, y2.
        valid: [N, M], boolean; False where the object is padding.
        where: [N], boolean; False excludes the example.

    Returns:
        `SetPrediction`. A label that is not a class or is "no object", a box with a negative side, or a NaN logit gives
        NaN in all parts of its example.

    Raises:
        ValueError: If objects outnumber queries.

    Example:
        One class, two queries, one object equal to the second query's box: it is matched and its box costs nothing.

        >>> boxes = jnp.array([[[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2]]])
        >>> out = set_prediction(jnp.zeros((1, 2, 2)), boxes, jnp.array([[0]]), boxes[:, 1:])
        >>> print(out.matched, out.classification.round(4), out.query_weights, out.distance)
        [[1]] [[0.6931 0.6931]] [[0.1 1. ]] [[0.]]

    Conventions:
        The costs and weights are from the authors' code, which matches by the probability, not its logarithm. It
        divides the box losses by the number of objects of the global batch, as the paper and as the weights do here on
        any split; it divides the cross-entropy by the weights of each device's queries.

    References:
        Carion et al. 2020, arXiv:2005.12872. Kuhn 1955, doi:10.1002/nav.3800020109 (the assignment).
    """
    where, objects = _check(logits, boxes, labels, target_boxes, valid, where)
    dtype = accumulation_dtype(logits, boxes, target_boxes)
    classes = logits.shape[-1] - 1
    scores = keep_rows(where, logits).astype(dtype)
    labels = keep_rows(objects, labels)
    predicted, true = (keep_rows(mask, x).astype(dtype) for mask, x in ((where, boxes), (objects, target_boxes)))
    spoiled = _unusable(scores, predicted, true, labels, objects, classes, layout)
    labels = jnp.clip(labels, 0, classes - 1)

    constants = jax.lax.stop_gradient((scores, predicted, true))
    cost = _costs(*constants, labels, layout, class_cost, distance_cost, giou_cost)
    cost = jax.lax.stop_gradient(jnp.where(objects[..., None] & jnp.isfinite(cost), cost, 0))
    query = jax.vmap(_assign)(cost)

    matched = objects[..., None] & (query[..., None] == jnp.arange(logits.shape[1]).reshape(1, 1, -1))  # [N, M, Q]
    its_label = jnp.sum(jnp.where(matched, labels[..., None], 0), axis=1, dtype=jnp.int32)
    wanted = jnp.where(jnp.any(matched, axis=1), its_label, classes)
    chosen = jnp.take_along_axis(predicted, query[..., None], axis=1)
    giou = generalized_cost(scaled_pair(corners(chosen, layout), corners(true, layout)))
    weights = jnp.where(wanted == classes, as_scalar(no_object_weight, dtype), 1)
    rows = jnp.ones(logits.shape[:1], bool) if where is None else where
    spoil = jnp.where(spoiled, jnp.nan, 1)[:, None]
    return SetPrediction(
        classification=zero_masked(rows[:, None], softmax_cross_entropy(scores, wanted) * spoil),
        query_weights=zero_masked(rows[:, None], weights),
        distance=zero_masked(objects, jnp.sum(jnp.abs(chosen - true), axis=-1) * spoil),
        giou=zero_masked(objects, giou * spoil),
        object_weights=objects.astype(dtype),
        matched=jnp.where(objects, query, -1),
    )


def _check(
    logits: jax.Array,
    boxes: jax.Array,
    labels: jax.Array,
    target_boxes: jax.Array,
    valid: jax.Array | None,
    where: jax.Array | None,
) -> tuple[jax.Array | None, jax.Array]:
    """Checks shapes and dtypes; returns `where` and the mask of objects in `labels`."""
    check_array("logits", logits)
    check_array("boxes", boxes)
    check_array("labels", labels, "integer")
    check_array("target_boxes", target_boxes, "real")
    check_rank("logits", logits, 3, "[examples, queries, classes + 1]")
    if logits.shape[-1] < 2:
        raise ValueError(f"logits must have at least one class apart from 'no object', got shape {logits.shape}")
    check_shape("boxes", boxes, (*logits.shape[:2], 4), "of the queries of logits")
    check_rank("labels", labels, 2, "[examples, objects]")
    check_shape("labels", labels, (logits.shape[0], labels.shape[1]), "of the examples of logits")
    check_boxes("target_boxes", target_boxes)
    check_shape("target_boxes", target_boxes, (*labels.shape, 4), "of the objects of labels")
    if labels.shape[1] > logits.shape[1]:
        raise ValueError(f"labels must have at most {logits.shape[1]} objects, one a query, got {labels.shape[1]}")
    where = check_where(where, logits.shape[:1])
    objects = jnp.ones(labels.shape, bool) if where is None else jnp.broadcast_to(where[:, None], labels.shape)
    if valid is not None:
        check_shape("valid", check_array("valid", valid, "boolean"), labels.shape, "of labels")
        objects &= valid
    return where, objects


def _unusable(
    scores: jax.Array,
    predicted: jax.Array,
    true: jax.Array,
    labels: jax.Array,
    objects: jax.Array,
    classes: int,
    layout: str,
) -> jax.Array:
    """Mask [N] of examples with invalid entries."""
    wrong = objects & ((labels < 0) | (labels >= classes) | jnp.isnan(corners(true, layout)).any(-1))
    no_query = jnp.isnan(corners(predicted, layout)).any((-1, -2)) | jnp.isnan(scores).any((-1, -2))
    return jnp.any(wrong, axis=-1) | no_query


def _costs(
    scores: jax.Array,
    predicted: jax.Array,
    true: jax.Array,
    labels: jax.Array,
    layout: str,
    class_cost: float | jax.Array,
    distance_cost: float | jax.Array,
    giou_cost: float | jax.Array,
) -> jax.Array:
    """Matching costs, [N, M, Q]."""
    dtype, (examples, objects, queries) = scores.dtype, (*labels.shape, scores.shape[1])
    probability = jnp.take_along_axis(jnp.exp(log_probabilities(scores)), labels[:, None, :], axis=2).swapaxes(1, 2)
    every = (examples, objects, queries, 4)
    ours = jnp.broadcast_to(predicted[:, None], every)
    theirs = jnp.broadcast_to(true[:, :, None], every)
    giou = generalized_cost(scaled_pair(corners(ours, layout), corners(theirs, layout)))
    distance = jnp.sum(jnp.abs(ours - theirs), axis=-1)
    costs = (class_cost, -probability), (distance_cost, distance), (giou_cost, giou)
    return sum((as_scalar(weight, dtype) * part for weight, part in costs), jnp.zeros((), dtype))


def _assign(cost: jax.Array) -> jax.Array:
    """Assigns distinct queries to objects at minimal total cost; finite costs [M, Q], M <= Q.

    The Hungarian algorithm by shortest augmenting paths, as in `optax.assignment.hungarian_algorithm`. Optax's loops
    start from constants, which `shard_map` with varying-axes checks rejects; here they start from the costs.
    """
    objects, queries = cost.shape
    if objects == 0:
        return jnp.zeros(0, jnp.int32)
    none = vary_like(jnp.zeros(queries, cost.dtype), cost)
    nobody = none.astype(jnp.int32) - 1
    object_index, query_index = jnp.arange(objects)[:, None], jnp.arange(queries)

    def add(i: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        u, v, owner = state  # potentials of objects and queries, and the object of each query

        def search(path: Path) -> Path:
            length, came_from, done, at, so_far = path
            row = jnp.where(at < 0, i, owner[at])
            reach = so_far + cost[row] - u[row] - v
            shorter = ~done & (reach < length)
            length = jnp.where(shorter, reach, length)
            came_from = jnp.where(shorter, at, came_from)
            at = jnp.argmin(jnp.where(done, jnp.inf, length)).astype(jnp.int32)
            return length, came_from, done | (query_index == at), at, length[at]

        start = (none + jnp.inf, nobody, none > 0, nobody[0], none[0])
        length, came_from, done, end, shortest = jax.lax.while_loop(
            lambda path: (path[3] < 0) | (owner[path[3]] >= 0), search, start
        )
        gain = jnp.where(done, shortest - length, 0)
        u = u + jnp.sum(jnp.where(owner[None] == object_index, gain[None], 0), axis=1)
        u = u + jnp.where(object_index[:, 0] == i, shortest, 0)

        def hand_over(step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            owner, at = step
            before = came_from[at]
            return jnp.where(query_index == at, jnp.where(before < 0, i, owner[before]), owner), before

        owner, _ = jax.lax.while_loop(lambda step: step[1] >= 0, hand_over, (owner, end))
        return u, v - gain, owner

    u = vary_like(jnp.zeros(objects, cost.dtype), cost)
    owner = jax.lax.fori_loop(0, objects, add, (u, none, nobody))[2]
    return jnp.argmax(owner[None] == object_index, axis=1).astype(jnp.int32)
