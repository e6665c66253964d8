"""Log-probabilities of whole answers."""

import jax
import jax.numpy as jnp

from lossfns._contract import flag, loss
from lossfns.language.causal import next_token, next_token_where


@loss(static=("average",), average=flag)
def sequence_log_probs(
    logits: jax.Array, tokens: jax.Array, *, average: bool = False, where: jax.Array | None = None
) -> jax.Array:
    r"""Log-probability of each answer given its prompt.

    $$\log \pi(y \mid x) = \sum_{i \in y} \log \pi(t_i \mid t_{<i})$$

    Targets are shifted here, and the mask selects the answer's tokens: pass logits, tokens and mask unshifted.
    Minus `next_token` gives the terms of the sum.

    Args:
        logits: [..., T, V], predictions of the next token; the last position is unused.
        tokens: [..., T], prompt and answer as fed to the model, integers in 0 .. V-1.
        average: Whether to divide by the number of tokens, as SimPO and ORPO are defined and IPO is often run.
        where: [..., T], boolean: the tokens of the answer; shaped like the tokens, not the result. None for all tokens
            but the first, which is never scored.

    Returns:
        [...], nats per sequence, at most 0, summed in float32 or wider; 0 for an empty answer.

    Example:
        An answer of two tokens with probability 1/4 each.

        >>> where = jnp.array([[False, True, True]])
        >>> logits, tokens = jnp.zeros((1, 3, 4)), jnp.array([[0, 1, 2]])
        >>> print(sequence_log_probs(logits, tokens, where=where).round(4))
        [-2.7726]
        >>> print(sequence_log_probs(logits, tokens, average=True, where=where).round(4))
        [-1.3863]

    Conventions:
        The code of DPO's authors labels prompt and padding -100: pass `where=labels != -100`. A mask taken before the
        shift is off by one: it scores the prompt's last token and drops the answer's last. Each log-probability is the
        logit minus the log-sum-exp, both shifted by the row maximum; in bfloat16 the sum would have steps of 1 nat from
        128 nats on.

    References:
        Rafailov et al. 2023, arXiv:2305.18290.
    """
    total = jnp.sum(-next_token(logits, tokens, where=where), axis=-1)
    if not average:
        return total
    count = jnp.sum(next_token_where(tokens, where=where), axis=-1)
    return total / jnp.maximum(count, 1).astype(total.dtype)
