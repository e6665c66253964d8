"""Causal language modelling: predict each token from the tokens before it."""

import jax
import jax.numpy as jnp

from lossfns._contract import check_array, check_shape, check_where, loss
from lossfns.classification.cross_entropy import softmax_cross_entropy


@loss()
def next_token_where(
    tokens: jax.Array, *, where: jax.Array | None = None, segment_ids: jax.Array | None = None
) -> jax.Array:
    r"""Which tokens `next_token` scores: the weights of its term.

    A token is scored if `where` is True and a token precedes it in its row and segment.

    Args:
        tokens: [..., T], integers; only the shape matters.
        where: [..., T], boolean: the tokens to predict (no padding; for instruction tuning, only the answer).
        segment_ids: [..., T], integers that number the documents packed into a row.

    Returns:
        [..., T], boolean; False at the first position of each row and of each segment.

    Example:
        >>> print(next_token_where(jnp.zeros(5, int), segment_ids=jnp.array([1, 1, 2, 2, 2])))
        [False  True False  True  True]
    """
    check_array("tokens", tokens, "integer")
    if tokens.ndim == 0:
        raise ValueError("tokens must have a last axis of positions, got a scalar")
    where = check_where(where, tokens.shape)
    scored = jnp.broadcast_to(jnp.arange(tokens.shape[-1]) > 0, tokens.shape)
    if where is not None:
        scored &= where
    if segment_ids is not None:
        check_shape("segment_ids", check_array("segment_ids", segment_ids, "integer"), tokens.shape, "of tokens")
        scored &= segment_ids == jnp.roll(segment_ids, 1, axis=-1)
    return scored


def _next_token_weights(
    logits: jax.Array, tokens: jax.Array, *, where: jax.Array | None = None, segment_ids: jax.Array | None = None
) -> jax.Array:
    return next_token_where(tokens, where=where, segment_ids=segment_ids)


@loss(term_weights=_next_token_weights)
def next_token(
    logits: jax.Array,
    tokens: jax.Array,
    *,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
    r"""Causal language modelling: NLL of each token given those before it, $-\log p(t_i \mid t_{<i})$.

    Targets are shifted here: entry i of the result belongs to token i and is computed from the logits at i - 1, so a
    single mask selects the scored tokens. The first token of a row is never scored.

    Args:
        logits: [..., T, V], predictions of the next token; the last position is unused.
        tokens: [..., T], the tokens fed to the model, integers in 0 .. V-1.
        where: [..., T], boolean: the tokens to predict (no padding; for instruction tuning, only the answer). False
            removes the token as a target; the model still sees it.
        segment_ids: [..., T], integers that number the documents packed into a row; nothing is predicted across a
            boundary.

    Returns:
        [..., T], nats per token; 0 where not scored. The term's weights, attached as `term_weights`, are
        `next_token_where(tokens, where=where, segment_ids=segment_ids)`: `where` alone would include the zeros of first
        tokens in the mean.

    Example:
        Three tokens of a vocabulary of two; at each position the next token 0 has odds of 3 to 1.

        >>> logits = jnp.log(jnp.array([[3.0, 1.0], [3.0, 1.0], [3.0, 1.0]]))
        >>> print(next_token(logits, jnp.array([1, 0, 1])).round(4))
        [0.     0.2877 1.3863]

    Conventions:
        Hugging Face's models also shift inside, and label tokens that are not predicted -100. With padding on the left,
        exclude the first real token by `where` or give the padding its own segment.

    References:
        Bengio et al. 2003, JMLR 3:1137-1155. Radford et al. 2018 (GPT).
    """
    check_array("logits", logits)
    check_array("tokens", tokens, "integer")
    if logits.ndim < 2:
        raise ValueError(f"logits must have two last axes, positions and vocabulary, got shape {logits.shape}")
    check_shape("tokens", tokens, logits.shape[:-1], f"of logits {logits.shape} without the vocabulary axis")
    scored = next_token_where(tokens, where=where, segment_ids=segment_ids)
    # Rolling the small arrays avoids a copy of the logits. Position 0 is never scored, so nothing wraps around.
    values = softmax_cross_entropy(logits, jnp.roll(tokens, -1, axis=-1), where=jnp.roll(scored, -1, axis=-1))
    return jnp.roll(values, 1, axis=-1)
