"""Losses over several levels: characters to sentences, and labels in a tree."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_array,
    check_shape,
    check_where,
    keep_rows,
    loss,
    nan_where_invalid,
    non_negative,
    one_of,
    optional_size,
    uncompiled,
    zero_masked,
)
from lossfns._numerics import log_normalizer, row_shift
from lossfns._padding import positions
from lossfns.classification.cross_entropy import softmax_cross_entropy


@uncompiled()
def hierarchical_cross_entropy(
    logits: Mapping[str, jax.Array], labels: Mapping[str, jax.Array], *, where: Mapping[str, Any] | None = None
) -> dict[str, jax.Array]:
    r"""Cross-entropies at several levels of one text: characters, words, phrases, sentences.

    $$\alpha L_{char} + \beta L_{word} + \gamma L_{phrase} + \delta L_{sentence}$$

    Each level is a separate term with its own number of units in the denominator; $\alpha$ to $\delta$ are the terms'
    loss weights, not applied here.

    Args:
        logits: Level -> [..., units, classes]; with any names, units and classes.
        labels: Level -> [..., units], integers.
        where: Level -> [..., units], boolean: the present units. A missing level, or None, has all; for an example
            without a level, mask its units.

    Returns:
        Level -> [..., units], nats per unit. The terms' weights are `where`.

    Raises:
        ValueError: If the mappings have different levels; the message names the level.
        TypeError: If an argument is not a mapping.

    Example:
        Two characters of two classes, one word of four classes.

        >>> logits = {"char": jnp.zeros((2, 2)), "word": jnp.zeros((1, 4))}
        >>> values = hierarchical_cross_entropy(logits, {"char": jnp.array([0, 1]), "word": jnp.array([3])})
        >>> print(values["char"].round(4), values["word"].round(4))
        [0.6931 0.6931] [1.3863]

    Conventions:
        Joint losses in the literature often average each level within an example first, which weights words of short
        sentences more. Here every unit of a level counts equally over the whole batch.
    """
    for name, value in (("logits", logits), ("labels", labels), ("where", {} if where is None else where)):
        if not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a mapping from levels to arrays, got {type(value).__name__}")
    masks = {} if where is None else where
    if set(logits) != set(labels) or not set(masks) <= set(logits):
        raise ValueError(
            f"labels must have the levels of logits, {sorted(logits)}, and where no others, got labels "
            f"{sorted(labels)} and where {sorted(masks)}"
        )
    values = {}
    for level in logits:
        try:
            values[level] = softmax_cross_entropy(logits[level], labels[level], where=masks.get(level))
        except (TypeError, ValueError) as error:
            raise type(error)(f"level {level!r}: {error}") from error
    return values


class PooledSpans(NamedTuple):
    """Result of `pool_spans`.

    Attributes:
        vectors: [..., S, D], one per span; 0 for an empty span.
        where: [..., S], boolean: the non-empty spans.
    """

    vectors: jax.Array
    where: jax.Array


@loss(static=("num_spans", "kind"), num_spans=optional_size, kind=one_of("mean", "sum"))
def pool_spans(
    hidden: jax.Array,
    span_ids: jax.Array,
    *,
    num_spans: int | None = None,
    kind: str = "mean",
    where: jax.Array | None = None,
) -> PooledSpans:
    r"""Pools representations of characters into words, phrases or sentences.

    $$v_s = \frac{1}{|\{t : a_t = s\}|} \sum_{t : a_t = s} h_t$$

    Args:
        hidden: $h$, [..., T, D].
        span_ids: $a$, [..., T], integers: the span of each position in 0 .. S-1, or a negative number for none (spaces,
            padding). Spans need not be contiguous.
        num_spans: S, a Python number, the maximal number of spans of an example; None for T.
        kind: "mean" or "sum".
        where: [..., T], boolean: the present positions.

    Returns:
        The vectors [..., S, D] and the mask of non-empty spans [..., S]. A span number of S or more gives its example
        NaN vectors.

    Example:
        Two characters of word 0, a space, one character of word 1; the third word is empty.

        >>> hidden = jnp.array([[1.0], [3.0], [9.0], [5.0]])
        >>> out = pool_spans(hidden, jnp.array([0, 0, -1, 1]), num_spans=3)
        >>> print(out.vectors[:, 0], out.where)
        [2. 5. 0.] [ True  True False]
    """
    check_array("hidden", hidden)
    check_array("span_ids", span_ids, "integer")
    if hidden.ndim < 2:
        raise ValueError(f"hidden must be [..., positions, features], got shape {hidden.shape}")
    check_shape("span_ids", span_ids, hidden.shape[:-1], f"of hidden {hidden.shape} without the features")
    where = check_where(where, span_ids.shape)
    spans = hidden.shape[-2] if num_spans is None else num_spans
    ids = keep_rows(where, span_ids.astype(jnp.promote_types(span_ids.dtype, jnp.int32)), fill=-1)
    h = keep_rows(ids >= 0, hidden).astype(accumulation_dtype(hidden))
    member = ids[..., None, :] == positions(spans, ids.ndim)[..., None]
    counts = jnp.sum(member, axis=-1)
    vectors = jnp.einsum("...st,...td->...sd", member.astype(h.dtype), h, precision=jax.lax.Precision.HIGHEST)
    if kind == "mean":
        vectors = vectors / jnp.maximum(counts, 1).astype(h.dtype)[..., None]
    fits = jnp.all(ids < spans, axis=-1)
    return PooledSpans(nan_where_invalid(fits[..., None, None], vectors), counts > 0)


def _label_tree(name: str, value: Any) -> tuple[int, ...]:
    """Parents as Python integers, checked to be a tree with the leaves first."""
    if isinstance(value, jax.core.Tracer) or not isinstance(value, Sequence | np.ndarray | jax.Array):
        raise TypeError(f"{name} must be a sequence of Python integers, got {type(value).__name__}")
    array = np.asarray(value)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or not array.size:
        raise TypeError(f"{name} must be a sequence of integers, one for each node, got {array.dtype} {array.shape}")
    nodes = [int(x) for x in array]
    roots = [node for node, parent in enumerate(nodes) if parent == -1]
    if len(roots) != 1 or not all(-1 <= parent < len(nodes) for parent in nodes):
        raise ValueError(f"{name} must be node numbers below {len(nodes)} and -1 once, for the root, got {nodes}")
    depth = _depths(name, nodes)
    is_leaf = [node not in set(nodes) for node in range(len(nodes))]
    if is_leaf != sorted(is_leaf, reverse=True) or max(depth) == 0:
        raise ValueError(f"{name} must number the classes (nodes without children) first, then the others, got {nodes}")
    return tuple(nodes)


def _depths(name: str, parents: Sequence[int]) -> list[int]:
    depths = []
    for node in range(len(parents)):
        depth, above = 0, parents[node]
        while above != -1:
            depth, above = depth + 1, parents[above]
            if depth > len(parents):
                raise ValueError(f"{name} must be a tree, got a cycle through node {node}")
        depths.append(depth)
    return depths


@loss(static=("parents",), parents=_label_tree, alpha=non_negative)
def label_tree_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    parents: Sequence[int],
    alpha: float | jax.Array = 0.5,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Hierarchical cross-entropy: mistakes cost more the farther apart the labels are in a tree.

    $$-\sum_{l = 0}^{h - 1} e^{-\alpha d_l} \log p(C_l \mid C_{l+1})$$

    with $C_0$ the label, $C_{l+1}$ the parent of $C_l$, $C_h$ the root, and $d_l$ the number of edges from the root to
    $C_l$. The probability of a node is the sum over the classes below it.

    Args:
        logits: [..., V], unnormalised log-probabilities of the classes in nats; -inf masks a class.
        labels: [...], integers in 0 .. V-1.
        parents: The parent of each node, Python integers: the V classes first, then the inner nodes; -1 for the root.
        alpha: $\alpha$, exponential decay of weights with depth; 0 gives the plain cross-entropy.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row, at least 0; inf for a masked label.

    Raises:
        ValueError: If `parents` is not a tree in this order.

    Example:
        Two pairs of classes: two binary choices of log 2 each, the lower one weighted by e^-1.

        >>> tree = (4, 4, 5, 5, 6, 6, -1)
        >>> print(label_tree_cross_entropy(jnp.zeros(4), jnp.array(0), parents=tree, alpha=0.0).round(4))
        1.3863
        >>> print(label_tree_cross_entropy(jnp.zeros(4), jnp.array(0), parents=tree, alpha=1.0).round(4))
        0.3488

    Conventions:
        The paper calls $d_l$ the height of the node; the authors' code counts from the root, as here, and divides all
        weights by their sum over the tree, a constant. Their soft labels by distance are `soft_cross_entropy` with such
        targets.

    References:
        Bertinetto et al. 2020, arXiv:1912.09393.
    """
    check_array("logits", logits)
    check_array("labels", labels, "integer")
    depths = _depths("parents", parents)
    classes = len(parents) - len(set(parents) - {-1})
    if logits.ndim == 0 or logits.shape[-1] != classes:
        raise ValueError(f"logits must have the {classes} classes of parents on the last axis, got {logits.shape}")
    check_shape("labels", labels, logits.shape[:-1], f"of logits {logits.shape} without the class axis")
    where = check_where(where, labels.shape)
    labels = keep_rows(where, labels.astype(jnp.promote_types(labels.dtype, jnp.int32)))
    in_range = (labels >= 0) & (labels < classes)
    labels = jnp.clip(labels, 0, classes - 1)
    dtype = accumulation_dtype(logits)
    x = keep_rows(where, logits).astype(dtype)

    below, depth = _paths(parents, depths, classes)
    member = jnp.asarray(below)[labels]
    on_path = jnp.where(member, x[..., None, :], -jnp.inf)
    _, shift = row_shift(on_path)
    log_mass, top = log_normalizer(on_path, shift), shift[..., 0]
    # From each node to its parent: both differences are small if the node has almost all of the mass.
    step = (log_mass[..., 1:] - log_mass[..., :-1]) + (top[..., 1:] - top[..., :-1])
    edge = jnp.asarray(depth)[labels]
    real = edge > 0
    impossible = log_mass[..., :-1] == -jnp.inf
    weights = jnp.exp(-as_scalar(alpha, dtype) * edge.astype(dtype))
    values = jnp.sum(jnp.where(real & ~impossible, weights * jnp.where(impossible, 0, step), 0), axis=-1)
    values = jnp.where(jnp.any(real & impossible, axis=-1), jnp.inf, values)
    return zero_masked(where, nan_where_invalid(in_range, values))


def _paths(parents: Sequence[int], depths: Sequence[int], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """For each class, the classes below each node of its path [V, h + 1, V] and the nodes' depths [V, h].

    Each path ends at the root; shorter paths are padded with it, at depth 0.
    """
    under = np.eye(len(parents), classes, dtype=bool)
    for node in sorted(range(len(parents)), key=lambda n: -depths[n]):
        if parents[node] != -1:
            under[parents[node]] |= under[node]
    longest = max(depths[:classes])
    below, depth = np.zeros((classes, longest + 1, classes), bool), np.zeros((classes, longest), np.int32)
    for label in range(classes):
        node = label
        for level in range(longest + 1):
            below[label, level] = under[node]
            if level < longest:
                depth[label, level] = depths[node]
            node = parents[node] if parents[node] != -1 else node
    return below, depth
