"""Variants of causal language modelling: prefixes, several tokens ahead, rare words, unlikelihood."""

import math

import jax
import jax.numpy as jnp

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
    non_negative_int,
    positive,
    uncompiled,
    zero_masked,
)
from lossfns._numerics import log_normalizer, row_shift
from lossfns._padding import positions
from lossfns.classification.cross_entropy import softmax_cross_entropy
from lossfns.language.causal import next_token, next_token_where


@loss()
def prefix_lm_where(
    tokens: jax.Array,
    prefix_lengths: jax.Array,
    *,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
    r"""Which tokens `prefix_lm` scores: the weights of its term.

    Args:
        tokens: [..., T], integers; only the shape matters.
        prefix_lengths: [...], integers in 0 .. T: length of the prefix.
        where: [..., T], boolean: the tokens to predict.
        segment_ids: [..., T], integers that number the documents packed into a row.

    Returns:
        [..., T], boolean; False in the prefix and where `next_token_where` is.

    Example:
        >>> print(prefix_lm_where(jnp.zeros(4, int), jnp.array(2)))
        [False False  True  True]
    """
    scored = next_token_where(tokens, where=where, segment_ids=segment_ids)
    check_array("prefix_lengths", prefix_lengths, "integer")
    check_shape("prefix_lengths", prefix_lengths, tokens.shape[:-1], f"of tokens {tokens.shape} without positions")
    return scored & (positions(tokens.shape[-1], tokens.ndim) >= prefix_lengths[..., None])


def _prefix_lm_weights(
    logits: jax.Array,
    tokens: jax.Array,
    prefix_lengths: jax.Array,
    *,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
    scored = prefix_lm_where(tokens, prefix_lengths, where=where, segment_ids=segment_ids)
    valid = _prefix_exists(prefix_lengths, tokens.shape[-1])[..., None]
    # An invalid length gives NaN: its tokens count, so that the NaN shows.
    return jnp.where(valid, scored, True if where is None else where)


def _prefix_exists(prefix_lengths: jax.Array, length: int) -> jax.Array:
    return (prefix_lengths >= 0) & (prefix_lengths <= length)


@loss(term_weights=_prefix_lm_weights)
def prefix_lm(
    logits: jax.Array,
    tokens: jax.Array,
    prefix_lengths: jax.Array,
    *,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
    r"""Prefix language modelling: causal language modelling of the text after a given prefix.

    $$-\log p(t_i \mid t_{<i}), \quad i \ge n$$

    The model may attend to the prefix in both directions; the loss excludes it.

    Args:
        logits: [..., T, V], predictions of the next token.
        tokens: [..., T], the tokens fed to the model, integers in 0 .. V-1.
        prefix_lengths: $n$, [...], integers in 0 .. T: length of the prefix.
        where: [..., T], boolean: the tokens to predict (no padding).
        segment_ids: [..., T], as for `next_token`. The prefix is at the start of the row, not of each document.

    Returns:
        [..., T], nats per token; 0 where not scored. The term's weights, attached as `term_weights`, are
        `prefix_lm_where` with the same arguments. A length out of range gives NaN, which counts.

    Example:
        >>> print(prefix_lm(jnp.zeros((4, 2)), jnp.array([1, 0, 1, 1]), jnp.array(2)).round(4))
        [0.     0.     0.6931 0.6931]

    Conventions:
        With a prefix of 0 or 1 this is `next_token`: the first token is never scored.

    References:
        Dong et al. 2019, arXiv:1905.03197 (UniLM). Raffel et al. 2020, arXiv:1910.10683.
    """
    scored = prefix_lm_where(tokens, prefix_lengths, where=where, segment_ids=segment_ids)
    values = next_token(logits, tokens, where=scored, segment_ids=segment_ids)
    valid = _prefix_exists(prefix_lengths, tokens.shape[-1])
    if where is not None:
        valid |= ~jnp.any(where, axis=-1)
    return zero_masked(where, nan_where_invalid(valid[..., None], values))


@loss(static=("heads",), heads=non_negative_int)
def multi_token_where(
    tokens: jax.Array, *, heads: int, where: jax.Array | None = None, segment_ids: jax.Array | None = None
) -> jax.Array:
    r"""Which tokens each head of `multi_token_prediction` scores: its `where` and the weights of its term.

    Args:
        tokens: [..., T], integers; only the shape matters.
        heads: Number of heads H, a Python number.
        where: [..., T], boolean: the tokens to predict.
        segment_ids: [..., T], integers that number the documents packed into a row.

    Returns:
        [..., H, T], boolean: head h predicts token i from position i - 1 - h of the same segment.

    Example:
        >>> print(multi_token_where(jnp.zeros(3, int), heads=2))
        [[False  True  True]
         [False False  True]]
    """
    scored = next_token_where(tokens, where=where, segment_ids=segment_ids)
    place = positions(tokens.shape[-1], tokens.ndim)
    by_head = []
    for head in range(heads):
        ahead = place > head
        if segment_ids is not None:
            ahead &= segment_ids == jnp.roll(segment_ids, 1 + head, axis=-1)
        by_head.append(scored & ahead)
    return jnp.stack(by_head, axis=-2) if by_head else jnp.zeros((*tokens.shape[:-1], 0, tokens.shape[-1]), bool)


def _multi_token_weights(
    logits: jax.Array, tokens: jax.Array, *, where: jax.Array | None = None, segment_ids: jax.Array | None = None
) -> jax.Array:
    scored = multi_token_where(tokens, heads=logits.shape[-3], segment_ids=segment_ids)
    return scored if where is None else scored & where


@loss(term_weights=_multi_token_weights)
def multi_token_prediction(
    logits: jax.Array,
    tokens: jax.Array,
    *,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
    r"""Multi-token prediction: head h predicts the token h + 1 positions ahead, $-\log p_h(t_i \mid t_{< i - h})$.

    Targets are shifted here: entry h, i of the result belongs to token i and is computed from head h at i - 1 - h.

    Args:
        logits: [..., H, T, V], for each head (the first is the ordinary next-token head) and position.
        tokens: [..., T], the tokens fed to the model, integers in 0 .. V-1.
        where: [..., H, T], boolean: the tokens each head has to predict.
        segment_ids: [..., T], integers that number the documents packed into a row, as for `next_token`.

    Returns:
        [..., H, T], nats per head and token; 0 where not scored. The term's weights, attached as `term_weights`, are
        `where` and `multi_token_where(tokens, heads=H, ...)`. The paper's loss is the sum over heads of their means:
        one term per head, `values[..., h, :]`.

    Example:
        Two heads over three tokens: only one token is two positions ahead of another.

        >>> print(multi_token_prediction(jnp.zeros((2, 3, 2)), jnp.array([0, 1, 0])).round(4))
        [[0.     0.6931 0.6931]
         [0.     0.     0.6931]]

    References:
        Gloeckle et al. 2024, arXiv:2404.19737.
    """
    check_array("logits", logits)
    check_array("tokens", tokens, "integer")
    if logits.ndim < 3:
        raise ValueError(f"logits must have three last axes, heads, positions and vocabulary, got shape {logits.shape}")
    *batch, heads, length, _ = logits.shape
    check_shape("tokens", tokens, (*batch, length), f"of logits {logits.shape} without heads and vocabulary")
    where = check_where(where, logits.shape[:-1])
    scored = _multi_token_weights(logits, tokens, where=where, segment_ids=segment_ids)
    if not heads:
        return jnp.zeros(logits.shape[:-1], accumulation_dtype(logits))
    # Rolling the small arrays avoids a copy of the logits. Where a roll wraps around, nothing is scored.
    shift = range(1, heads + 1)
    targets = jnp.stack([jnp.roll(tokens, -k, axis=-1) for k in shift], axis=-2)
    at = jnp.stack([jnp.roll(scored[..., k - 1, :], -k, axis=-1) for k in shift], axis=-2)
    values = softmax_cross_entropy(logits, targets, where=at)
    return jnp.stack([jnp.roll(values[..., k - 1, :], k, axis=-1) for k in shift], axis=-2)


@loss(power=non_negative, smoothing=positive)
def frequency_weighted(
    logits: jax.Array,
    labels: jax.Array,
    counts: jax.Array,
    *,
    power: float | jax.Array = 0.5,
    smoothing: float | jax.Array = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Cross-entropy with larger weights for rarer tokens.

    $$-w_y \log p_y, \quad w_k \propto (c_k + s)^{-a}, \quad \sum_k \frac{c_k}{\sum_j c_j} w_k = 1$$

    The weights have mean one over the counted corpus, so that the loss keeps its scale.

    Args:
        logits: [..., V], unnormalised log-probabilities in nats.
        labels: [...], integers in 0 .. V-1.
        counts: $c$, [V], how often each token occurs in the corpus, not negative; any real dtype, no gradient.
        power: $a$; 0 is the plain cross-entropy, at 1 every token of the vocabulary contributes equally.
        smoothing: $s$, added to each count.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], weighted nats per row. The term's weights remain `where`. A negative or infinite count gives NaN
        everywhere.

    Example:
        Counts of 3 to 1, power 1 and almost no smoothing: weights 2/3 and 2 times log 2.

        >>> counts = jnp.array([3, 1])
        >>> values = frequency_weighted(jnp.zeros((2, 2)), jnp.array([0, 1]), counts, power=1.0, smoothing=1e-9)
        >>> print((values / jnp.log(2)).round(4))
        [0.6667 2.    ]

    Conventions:
        Jiang et al. weight linearly in the frequency (FACE), Gu et al. by an exponential of it, Cui et al. by the
        effective number of samples (`class_balanced_weights`). All normalise differently.

    References:
        Jiang et al. 2019, arXiv:1902.09191. Gu et al. 2020, arXiv:2010.04380.
    """
    check_array("logits", logits)
    check_array("counts", counts, "real")
    check_shape("counts", counts, logits.shape[-1:], f"of the classes of logits {logits.shape}")
    values = softmax_cross_entropy(logits, labels, where=where)
    dtype = values.dtype
    counts = jax.lax.stop_gradient(counts).astype(dtype)
    valid = jnp.all((counts >= 0) & (counts < jnp.inf))
    counts = jnp.where(valid, counts, 1)
    log_weights = -as_scalar(power, dtype) * jnp.log(counts + as_scalar(smoothing, dtype))
    total = jnp.sum(counts)
    weights = jnp.exp(log_weights - jnp.max(log_weights))
    mean = jnp.sum(weights * counts) / jnp.where(total == 0, 1, total)
    weights = jnp.where(valid, weights / jnp.where(total == 0, 1, mean), jnp.nan)
    labels = keep_rows(where, labels.astype(jnp.promote_types(labels.dtype, jnp.int32)))
    mine = keep_rows(where, jnp.take(weights, labels, mode="clip"))
    # A value of 0 keeps its weight of 0 in the gradient; an infinite one stays infinite.
    return zero_masked(where, values * mine)


@uncompiled(vocab_size=non_negative_int)
def previous_tokens(tokens: jax.Array, *, vocab_size: int) -> jax.Array:
    r"""For each position, the set of earlier tokens except the token itself: candidates for `unlikelihood`.

    Args:
        tokens: [..., T], integers in 0 .. vocab_size - 1; others are in no set.
        vocab_size: V, a Python number.

    Returns:
        [..., T, V], boolean.

    Example:
        >>> print(previous_tokens(jnp.array([1, 0, 1]), vocab_size=3).astype(int))
        [[0 0 0]
         [0 1 0]
         [1 0 0]]

    References:
        Welleck et al. 2019, arXiv:1908.04319.
    """
    check_array("tokens", tokens, "integer")
    if tokens.ndim == 0:
        raise ValueError("tokens must have a last axis of positions, got a scalar")
    length = tokens.shape[-1]
    flat = jnp.where(tokens < 0, vocab_size, tokens).reshape(math.prod(tokens.shape[:-1]), length)
    rows = jnp.broadcast_to(jnp.arange(flat.shape[0])[:, None], flat.shape)
    first = (
        jnp.full((flat.shape[0], vocab_size), length)
        .at[rows, flat]
        .min(jnp.broadcast_to(positions(length, 2), flat.shape), mode="drop")
    )
    seen = first[:, None, :] < jnp.arange(length)[None, :, None]
    seen &= flat[..., None] != positions(vocab_size, 3)
    return seen.reshape(*tokens.shape, vocab_size)


@loss(alpha=non_negative)
def unlikelihood(
    logits: jax.Array,
    labels: jax.Array,
    negatives: jax.Array,
    *,
    alpha: float | jax.Array = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Cross-entropy plus unlikelihood: raises the label and lowers unwanted tokens, such as repetitions.

    $$-\log p_y - \alpha \sum_{c \in C \setminus \{y\}} \log(1 - p_c)$$

    Args:
        logits: [..., V], unnormalised log-probabilities in nats; -inf masks a class.
        labels: [...], integers in 0 .. V-1.
        negatives: $C$, [..., V], boolean: the candidates, for instance from `previous_tokens`; the label is excluded.
        alpha: $\alpha$, weight of the unlikelihood.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row, at least 0; inf if a candidate has all of the probability.

    Example:
        Three equal classes: log 3 for the label, log(3/2) for one candidate.

        >>> print(unlikelihood(jnp.zeros(3), jnp.array(0), jnp.array([True, True, False])).round(4))
        1.5041

    Conventions:
        The authors' code clamps 1 - p at 1e-5, which cuts the gradient off where it matters most; here 1 - p is summed
        over the other classes, exact however near p is to 1.

    References:
        Welleck et al. 2019, arXiv:1908.04319.
    """
    check_array("negatives", negatives, "boolean")
    check_array("logits", logits)
    check_shape("negatives", negatives, logits.shape, "of logits")
    values = softmax_cross_entropy(logits, labels, where=where)
    dtype = values.dtype
    x = keep_rows(where, logits).astype(dtype)
    classes = positions(x.shape[-1], x.ndim)
    avoid = negatives & (classes != keep_rows(where, labels)[..., None])
    _, shift = row_shift(x)
    log_z = log_normalizer(x, shift)[..., None]
    log_z = jnp.where(log_z == -jnp.inf, 0, log_z)
    # For the likeliest class 1 - p is the sum of the others; any other p is at most 1/2.
    likeliest = classes == jnp.argmax(x, axis=-1, keepdims=True)
    others = jnp.where(likeliest, -jnp.inf, x)
    _, second = row_shift(others)
    log_rest = log_normalizer(others, second)[..., None] + (second - shift) - log_z
    p = jnp.exp(jnp.where(avoid & ~likeliest, x - shift - log_z, -jnp.inf))
    penalty = -jnp.sum(jnp.log1p(-p), axis=-1)
    top_is_avoided = jnp.any(avoid & likeliest, axis=-1)
    penalty -= jnp.where(top_is_avoided, log_rest[..., 0], 0)
    weight = as_scalar(alpha, dtype)
    return zero_masked(where, values + jnp.where(penalty == 0, 0, weight * penalty))
