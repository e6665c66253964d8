"""Dependency trees: distributions over the heads of words."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    check_array,
    check_shape,
    check_where,
    flag,
    keep_rows,
    loss,
    nan_where_invalid,
    zero_masked,
)
from lossfns._numerics import log_add, log_of_sum, row_shift, vary_like
from lossfns._padding import check_present, positions
from lossfns.classification.cross_entropy import softmax_cross_entropy


def _arc_weights(
    logits: jax.Array,
    heads: jax.Array,
    words_where: jax.Array | None = None,
    *,
    exclude_self: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    words, valid = check_present("words_where", words_where, heads.shape, None)
    # An invalid length gives NaN: its words count, so that the NaN shows.
    scored = jnp.where(valid[..., None], words, True)
    return scored if where is None else scored & where


@loss(static=("exclude_self",), exclude_self=flag, term_weights=_arc_weights)
def arc_cross_entropy(
    logits: jax.Array,
    heads: jax.Array,
    words_where: jax.Array | None = None,
    *,
    exclude_self: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Cross-entropy of each word's head, independently of the others: $-\log \mathrm{softmax}(x_n)_{h_n}$.

    Args:
        logits: [..., N, N + 1], for word n the scores of its heads in nats: column 0 is the root, column k the k-th
            word (as in CoNLL-U). -inf forbids a head.
        heads: [..., N], integers in 0 .. N.
        words_where: The present words: boolean [..., N], or integer lengths [...]; None for all. An absent word neither
            has nor is a head.
        exclude_self: Whether to exclude the word itself from the softmax.
        where: [..., N], boolean: the words to score. Unlike an absent word, an unscored one may be a head.

    Returns:
        [..., N], nats per word; 0 at absent or unscored words, excluded from the attached `term_weights`. A head out of
        range gives NaN, an absent or forbidden one inf.

    Example:
        Two words, three heads at equal odds: log 3; without the word itself log 2.

        >>> print(arc_cross_entropy(jnp.zeros((2, 3)), jnp.array([0, 1])).round(4))
        [1.0986 1.0986]
        >>> print(arc_cross_entropy(jnp.zeros((2, 3)), jnp.array([0, 1]), exclude_self=True).round(4))
        [0.6931 0.6931]

    Conventions:
        Dozat and Manning keep the word itself among its heads in training and only search for a tree afterwards;
        `dependency_tree_crf` normalises over trees.

    References:
        Dozat and Manning 2017, arXiv:1611.01734.
    """
    _check_arcs(logits, heads, "logits")
    where = check_where(where, heads.shape)
    words, valid = check_present("words_where", words_where, heads.shape, None)
    scored = words if where is None else words & where
    logits = keep_rows(scored, logits)
    logits = jnp.where(_as_heads(words), logits, -jnp.inf)
    if exclude_self:
        logits = jnp.where(_is_self(logits), -jnp.inf, logits)
    values = softmax_cross_entropy(logits, heads, where=scored)
    return zero_masked(where, jnp.where(valid[..., None], values, jnp.nan))


@loss(static=("single_root",), single_root=flag)
def dependency_tree_crf(
    scores: jax.Array,
    heads: jax.Array,
    words_where: jax.Array | None = None,
    *,
    single_root: bool = True,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Negative log-likelihood of a dependency tree under a distribution over all trees, projective or not.

    $$\log \sum_{h' \in \mathcal{T}} e^{s(h')} - s(h), \quad s(h) = \sum_n x_{n, h_n}$$

    The sum over trees is a determinant (the matrix-tree theorem), computed in logarithms by eliminating words without
    subtractions, so that it is accurate for scores of any range.

    Args:
        scores: $x$, [..., N, N + 1], for word n the scores of its heads in nats: column 0 is the root, column k the
            k-th word (as in CoNLL-U); a word's own column is ignored. -inf forbids an arc.
        heads: $h$, [..., N], integers in 0 .. N.
        words_where: The present words: boolean [..., N], or integer lengths [...]; None for all. An absent word is
            skipped (heads keep their numbers).
        single_root: Whether trees have exactly one word under the root, as in treebanks, rather than at least one.
        where: [...], boolean; False excludes the tree.

    Returns:
        [...], nats per tree, at least 0; 0 without present words, inf for a forbidden arc. Heads that are not a tree (a
        cycle, a second root, a head that is absent or out of range) or a length out of range give NaN.

    Example:
        Two words: either may be the root of the other. With several roots allowed, both may be roots too.

        >>> print(dependency_tree_crf(jnp.zeros((2, 3)), jnp.array([0, 1])).round(4))
        0.6931
        >>> print(dependency_tree_crf(jnp.zeros((2, 3)), jnp.array([0, 1]), single_root=False).round(4))
        1.0986

    Conventions:
        - Koo 2007 and Smith and Smith 2007 describe both forms; many implementations sum over trees with several roots
          and decode a single root. torch-struct keeps the root's scores on the diagonal, indexed head first.
        - Time is N steps of N^2 each; the gradient stores N^3 numbers.

    References:
        Koo et al. 2007, EMNLP-CoNLL (Structured prediction models via the matrix-tree theorem). McDonald and Satta
        2007, IWPT. Smith and Smith 2007, EMNLP-CoNLL.
    """
    _check_arcs(scores, heads, "scores")
    where = check_where(where, heads.shape[:-1])
    words, valid = check_present("words_where", words_where, heads.shape, where)
    heads = keep_rows(words, keep_rows(where, heads.astype(jnp.promote_types(heads.dtype, jnp.int32))))
    x = keep_rows(words, keep_rows(where, scores)).astype(accumulation_dtype(scores))
    x = jnp.where(_as_heads(words) & ~_is_self(x), x, -jnp.inf)
    _, top = row_shift(x)
    # A constant subtracted from all scores of a word's heads cancels.
    x = x - top
    # An absent word is attached to the root at no cost.
    x = jnp.where(words[..., None], x, jnp.where(positions(x.shape[-1], x.ndim) == 0, 0.0, -jnp.inf).astype(x.dtype))
    gold = jnp.take_along_axis(x, jnp.clip(heads, 0, x.shape[-1] - 1)[..., None], axis=-1)[..., 0]
    score = jnp.sum(jnp.where(words, gold, 0), axis=-1)
    valid &= _is_tree(heads, words, single_root) if where is None else _is_tree(heads, words, single_root) | ~where
    log_z = _log_partition(x, words, single_root)
    values = jnp.where(score == -jnp.inf, jnp.inf, log_z - score)
    # Rounding may make a value negative; its gradient is right and kept.
    values += jax.lax.stop_gradient(jnp.maximum(-values, 0))
    return zero_masked(where, nan_where_invalid(valid, values))


def _check_arcs(x: jax.Array, heads: jax.Array, name: str) -> None:
    check_array(name, x)
    check_array("heads", heads, "integer")
    if x.ndim < 2 or x.shape[-1] != x.shape[-2] + 1:
        raise ValueError(f"{name} must be [..., words, words + 1], heads with the root last axis, got shape {x.shape}")
    check_shape("heads", heads, x.shape[:-1], f"of {name} {x.shape} without the heads' axis")


def _as_heads(words: jax.Array) -> jax.Array:
    """Mask [..., 1, N + 1] of the columns that may be heads: the root and the present words."""
    return jnp.pad(words, [(0, 0)] * (words.ndim - 1) + [(1, 0)], constant_values=True)[..., None, :]


def _is_self(x: jax.Array) -> jax.Array:
    """Mask of each word as its own head: column n + 1 of row n."""
    return jnp.eye(x.shape[-2], x.shape[-1], k=1, dtype=bool).reshape((1,) * (x.ndim - 2) + x.shape[-2:])


def _is_tree(heads: jax.Array, words: jax.Array, single_root: bool) -> jax.Array:
    """Whether every present word reaches the root through present heads."""
    count = heads.shape[-1]
    inside = jnp.all(~words | ((heads >= 0) & (heads <= count)), axis=-1)
    up = jnp.pad(jnp.clip(heads, 0, count), [(0, 0)] * (heads.ndim - 1) + [(1, 0)])
    there = jnp.pad(words, [(0, 0)] * (words.ndim - 1) + [(1, 0)], constant_values=True)
    present = jnp.all(~words | jnp.take_along_axis(there, up[..., 1:], axis=-1), axis=-1)
    for _ in range(max(count, 1).bit_length()):
        up = jnp.take_along_axis(up, up, axis=-1)
    roots = jnp.sum(words & (heads == 0), axis=-1)
    one = (roots == 1) | ~jnp.any(words, axis=-1) if single_root else True
    return inside & present & jnp.all(~words | (up[..., 1:] == 0), axis=-1) & one


def _log_partition(x: jax.Array, words: jax.Array, single_root: bool) -> jax.Array:
    """Log of the sum over trees, [...], of log-weights x [..., word, head] with -inf at the words themselves.

    Eliminating word k attaches its dependents to its heads: w_ij += w_ik w_kj / d_k with d_k the sum of k's incoming
    weights, and the sum over trees is the product of all d_k. Trees with one root are the part of first order in the
    root's weights: every number carries its order, and in a sum only the lowest order counts.
    """
    count = x.shape[-2]
    if not count:
        return jnp.zeros(x.shape[:-2], x.dtype)
    far = 2 * count + 2
    from_root = (positions(count + 1, x.ndim) == 0) & words[..., None]
    order = jnp.broadcast_to(jnp.where(from_root, int(single_root), 0), x.shape)

    def step(carry, k):  # type: ignore[no-untyped-def]
        w, order, total, total_order = carry
        order = jnp.where(w == -jnp.inf, far, order)
        into, into_order = (jax.lax.dynamic_index_in_dim(a, k, -2, keepdims=False) for a in (w, order))
        out, out_order = (jax.lax.dynamic_index_in_dim(a, k + 1, -1, keepdims=False) for a in (w, order))
        lowest = jnp.min(into_order, axis=-1)
        leading = jnp.where(into_order == lowest[..., None], into, -jnp.inf)
        _, top = row_shift(leading)
        sum_into = log_of_sum(jnp.sum(jnp.exp(leading - top), axis=-1)) + top[..., 0]
        share = into - jnp.where(sum_into == -jnp.inf, 0, sum_into)[..., None]
        through = share[..., None, :] + out[..., :, None]
        through_order = (into_order - lowest[..., None])[..., None, :] + out_order[..., :, None]
        w = log_add(
            jnp.where(order <= through_order, w, -jnp.inf), jnp.where(through_order <= order, through, -jnp.inf)
        )
        gone = _is_self(w) | (positions(count + 1, w.ndim) == k + 1)
        w = jnp.where(gone, -jnp.inf, w)
        return (w, jnp.minimum(order, through_order), total + sum_into, total_order + lowest), None

    zero = vary_like(jnp.zeros(x.shape[:-2], x.dtype), x, words)
    nothing = jnp.zeros_like(zero, dtype=order.dtype) + jnp.where(zero == 0, 0, 1).astype(order.dtype)
    order = vary_like(order, x, words)
    (_, _, total, total_order), _ = jax.lax.scan(step, (x, order, zero, nothing), jnp.arange(count))
    wanted = jnp.any(words, axis=-1).astype(total_order.dtype) * int(single_root)
    return jnp.where(total_order == wanted, total, -jnp.inf)
