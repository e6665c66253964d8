"""Log-probabilities of whole answers."""

import jax
import jax.numpy as jnp

from lossfns._contract import flag, loss
from lossfns.language import next_token, next_token_where


@loss(static=("average",), average=flag)
def sequence_log_probs(
    logits: jax.Array, tokens: jax.Array, *, average: bool = False, where: jax.Array | None = None
) -> jax.Array:
    r"""Log-probability of each answer given its prompt.

    $$\log \pi(y \mid x) = \sum_{i \in y} \log \pi(t_i \mid t_{<i})$$

    Targets are shifted here, and the mask selects the tokens of the answer: pass logits, tokens and mask as the
    model saw them. Minus `next_token` gives the terms of the sum, one for each token.

    Args:
        logits: [..., T, V], at each position the prediction of the next token; the last position is not used.
        tokens: [..., T], prompt and answer as fed to the model, integers in 0 .. V-1.
        average: Whether to divide by the number of tokens summed: SimPO and ORPO are defined so, and IPO is often run
            so.
        where: [..., T], boolean: the tokens of the answer. It has the shape of the tokens, not of the result. None
            for all tokens but the first, which nothing predicts.

    Returns:
        [...], nats per sequence, at most 0, summed in float32 or wider; 0 for an answer without tokens. A token
        outside 0 .. V-1 gives NaN.

    Example:
        Two tokens of an answer, each of probability 1/4.

        >>> where = jnp.array([[False, True, True]])
        >>> logits, tokens = jnp.zeros((1, 3, 4)), jnp.array([[0, 1, 2]])
        >>> print(sequence_log_probs(logits, tokens, where=where).round(4))
        [-2.7726]
        >>> print(sequence_log_probs(logits, tokens, average=True, where=where).round(4))
        [-1.3863]

    Conventions:
        The DPO code of its authors marks prompt and padding by labels of -100: pass `where=labels != -100`. A mask
        taken before the shift is off by one: it scores the last token of the prompt and forgets the last of the
        answer. Each log-probability is the token's logit minus the log-sum-exp, both shifted by the row maximum; in
        bfloat16 the sum would move in steps of 1 nat from 128 nats on.

    References:
        Rafailov et al. 2023, arXiv:2305.18290.
    """
    total = jnp.sum(-next_token(logits, tokens, where=where), axis=-1)
    if not average:
        return total
    count = jnp.sum(next_token_where(tokens, where=where), axis=-1)
    return total / jnp.maximum(count, 1).astype(total.dtype)
