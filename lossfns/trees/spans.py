"""Constituency trees: distributions over binary bracketings."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    check_array,
    check_shape,
    check_where,
    keep_rows,
    loss,
    nan_where_invalid,
    zero_masked,
)
from lossfns._numerics import log_of_sum, row_shift, vary_like
from lossfns._padding import check_prefix, positions


@loss()
def span_tree_crf(
    scores: jax.Array,
    spans: jax.Array,
    words_where: jax.Array | None = None,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Negative log-likelihood of a binary bracketing under a distribution over all bracketings.

    $$\log \sum_{S' \in \mathcal{T}} e^{s(S')} - s(S), \quad s(S) = \sum_{(i, j) \in S} x_{ij}$$

    A binary tree over n words has n - 1 spans of two words or more; single words are in every tree and ignored. The sum
    over trees is computed by the inside algorithm.

    Args:
        scores: $x$, [..., N, N], scores in nats of the span from word i to word j inclusive, for i < j; the rest is
            ignored. -inf forbids a span.
        spans: $S$, [..., N, N], boolean, which spans i < j are in the tree, including the whole sentence; the diagonal
            is ignored.
        words_where: The present words: integer lengths [...], or boolean [..., N] without holes; None for all.
        where: [...], boolean; False excludes the tree.

    Returns:
        [...], nats per tree, at least 0; 0 for fewer than three words, inf for a forbidden span. Spans that are not a
        binary tree, a length out of range or a mask of words with a hole give NaN.

    Example:
        Three words have two trees, ((0 1) 2) and (0 (1 2)).

        >>> spans = jnp.zeros((3, 3), bool).at[0, 2].set(True).at[0, 1].set(True)
        >>> print(span_tree_crf(jnp.zeros((3, 3)), spans).round(4))
        0.6931

    Conventions:
        - For labelled spans with logits [..., N, N, labels], pass their `logsumexp` as scores and add the cross-entropy
          of the label at each span of the tree: the distribution factorises.
        - torch-struct also scores single words, which does not change probabilities.
        - Time is N steps of N^2 each; the gradient stores N^3 numbers.

    References:
        Baker 1979, doi:10.1121/1.2017061 (inside algorithm). Stern et al. 2017, arXiv:1705.03919 (scores of spans).
    """
    check_array("scores", scores)
    check_array("spans", spans, "boolean")
    if scores.ndim < 2 or scores.shape[-1] != scores.shape[-2]:
        raise ValueError(f"scores must be [..., words, words], got shape {scores.shape}")
    check_shape("spans", spans, scores.shape, "of scores")
    where = check_where(where, scores.shape[:-2])
    words, valid = check_prefix("words_where", words_where, scores.shape[:-1], where)
    count = scores.shape[-1]
    length = jnp.sum(words, axis=-1)
    start, width = positions(count, 2).T, positions(count, 2)
    # From (first word, last word) to (first word, words more).
    last = jnp.minimum(start + width, count - 1)
    exists = (width > 0).reshape((1,) * (scores.ndim - 2) + (1, count)) & (
        (start + width).reshape((1,) * (scores.ndim - 2) + (count, count)) < length[..., None, None]
    )
    x = jnp.where(exists, keep_rows(where, scores)[..., start, last], 0).astype(accumulation_dtype(scores))
    chosen = exists & spans[..., start, last]
    below = jnp.any(jnp.tril(spans, -1) & (words[..., None, :] & words[..., :, None]), axis=(-1, -2))
    forbidden = jnp.any(chosen & (x == -jnp.inf), axis=(-1, -2))
    values, parted = _nll_of_splits(x, chosen)
    # A binary tree over n words has n - 1 spans of two parts.
    number = jnp.sum(chosen, axis=(-1, -2))
    is_whole = positions(count, scores.ndim) == (length - 1)[..., None, None]
    whole = jnp.any(chosen[..., :1, :] & is_whole, axis=(-1, -2))
    is_tree = (number == jnp.maximum(length - 1, 0)) & (parted == number) & (whole | (length < 2)) & ~below
    valid &= is_tree if where is None else is_tree | ~where
    valid &= ~jnp.any(jnp.isnan(x), axis=(-1, -2))
    values = jnp.where(forbidden, jnp.inf, values)
    return zero_masked(where, nan_where_invalid(valid, values))


def _nll_of_splits(x: jax.Array, chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The inside algorithm over x [..., first word, further words], and the costs of the tree's choices.

    From the top down a tree is a choice of split for each of its spans, and its NLL the sum over them. Each is a
    difference of neighbours, computed without cancellation: an inside value is a sum of two numbers, the best tree's
    and the rest with the rounding error of the first.

    Returns:
        The summed NLL, and the number of chosen spans with exactly one split into chosen parts.
    """
    count = x.shape[-1]
    zero = vary_like(jnp.zeros(x.shape[:-2], x.dtype), x, chosen)
    none = jnp.sum(chosen & False, axis=(-1, -2))
    if count < 2:
        return zero, none
    start, split = positions(count, 2).T, positions(count, 2)
    here = positions(count, x.ndim)
    parts = chosen | (here == 0)

    def step(carry, k):  # type: ignore[no-untyped-def]
        best, rest, nll, parted = carry
        # The left part has 1 .. k words, the right part the rest of k + 1.
        right = jnp.minimum(start + split + 1, count - 1), jnp.clip(k - 1 - split, 0, count - 1)
        ways = jnp.where(here < k, best + best[..., *right], -jnp.inf)
        _, top = row_shift(ways)
        ways = (ways - top) + (rest + rest[..., *right] + _lost(best, best[..., *right]))
        _, peak = row_shift(ways)  # near 0, except for rounding of huge scores
        log_sum = log_of_sum(jnp.sum(jnp.exp(ways - peak), axis=-1)) + peak[..., 0]
        taken = (here < k) & parts & parts[..., *right]
        of_tree = jnp.sum(jnp.where(taken, ways, 0), axis=-1)
        is_split = jax.lax.dynamic_index_in_dim(chosen, k, -1, keepdims=False) & (jnp.sum(taken, axis=-1) == 1)
        cost = jnp.where(is_split & (of_tree > -jnp.inf), log_sum - of_tree, 0)
        mine = jax.lax.dynamic_index_in_dim(x, k, -1)
        best = jnp.where(here == k, top + mine, best)
        rest = jnp.where(here == k, log_sum[..., None] + _lost(top, mine), rest)
        return (best, rest, nll + jnp.sum(cost, axis=-1), parted + jnp.sum(is_split, axis=-1)), None

    chart = vary_like(jnp.zeros_like(x), x, chosen)
    (_, _, nll, parted), _ = jax.lax.scan(step, (chart, chart, zero, none), jnp.arange(1, count))
    # Rounding may make a value negative; its gradient is right and kept.
    return nll + jax.lax.stop_gradient(jnp.maximum(-nll, 0)), parted


def _lost(a: jax.Array, b: jax.Array) -> jax.Array:
    """The rounding error of a + b, exactly (Knuth 1969); no gradient."""
    a, b = jax.lax.stop_gradient((a, b))
    total = a + b
    of_b = total - a
    lost = (a - (total - of_b)) + (b - of_b)
    return jnp.where(jnp.isfinite(total), lost, 0)
