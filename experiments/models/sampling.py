"""Autoregressive sampling from a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.tokenizers import CLS, SEP, SPECIAL_IDS, Tokenizer


def sample(
    model: Any,
    params: Any,
    key: jax.Array,
    *,
    length: int,
    rows: int = 3,
    temperature: float = 1.0,
    prompt: Sequence[int] = (),
    window: int | None = None,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> np.ndarray:
    """Samples texts from a causal language model, beginning with the start symbol.

    Args:
        model: The network; it maps tokens [B, T] and `valid` to logits [B, T, V].
        params: Its parameters.
        key: PRNG key.
        length: Sequence length, including the start symbol and the prompt.
        rows: Number of texts.
        temperature: Divides the logits; 0 takes the likeliest token.
        prompt: Tokens after the start symbol.
        window: Number of last tokens that the network sees; by default all.
        top_k: Draw among this many likeliest tokens; see `keep_likeliest`.
        top_p: Draw among the likeliest tokens with this total mass.

    Returns:
        int32 [rows, length]; a text ends at its first [SEP].
    """
    never = np.asarray([i for i in SPECIAL_IDS if i != SEP])
    seen = min(window or length, length)

    def draw(position: jax.Array, tokens: jax.Array) -> jax.Array:
        first = jnp.maximum(position - seen, 0)
        context = jax.lax.dynamic_slice_in_dim(tokens, first, seen, axis=1)
        logits: Any = model.apply({"params": params}, context, valid=jnp.ones_like(context, bool))
        scores = logits[:, position - 1 - first].at[:, never].set(-jnp.inf)
        if temperature == 0:
            chosen = scores.argmax(-1)
        else:
            kept = keep_likeliest(scores / temperature, top_k, top_p)
            chosen = jax.random.categorical(jax.random.fold_in(key, position), kept)
        return tokens.at[:, position].set(chosen.astype(tokens.dtype))

    given = [CLS, *map(int, prompt)]
    start = jnp.zeros((rows, length), jnp.int32).at[:, : len(given)].set(jnp.asarray(given))
    return np.asarray(jax.jit(lambda tokens: jax.lax.fori_loop(len(given), length, draw, tokens))(start))


def keep_likeliest(scores: jax.Array, top_k: int | None = None, top_p: float = 1.0) -> jax.Array:
    """Sets the scores of all but the likeliest tokens to -inf.

    Args:
        scores: Unnormalised log-probabilities [..., V].
        top_k: Number to keep (Fan et al. 2018, arXiv:1805.04833); None keeps all. Ties with the last one stay.
        top_p: Of these, keeps the fewest with at least this total mass (Holtzman et al. 2020, arXiv:1904.09751).

    >>> scores = jnp.log(jnp.array([0.5, 0.1, 0.3, 0.1]))
    >>> print(jnp.exp(keep_likeliest(scores, top_k=2)), jnp.exp(keep_likeliest(scores, top_p=0.6)))
    [0.5 0.  0.3 0. ] [0.5 0.  0.3 0. ]
    >>> print(jnp.exp(keep_likeliest(scores, top_p=0.4)))
    [0.5 0.  0.  0. ]
    """
    if top_k is not None:
        least = jax.lax.top_k(scores, min(top_k, scores.shape[-1]))[0][..., -1:]
        scores = jnp.where(scores >= least, scores, -jnp.inf)
    if top_p < 1:
        ordered = -jnp.sort(-scores, axis=-1)
        mass = jax.nn.softmax(ordered)
        before = jnp.cumsum(mass, axis=-1) - mass
        least = jnp.where(before < top_p, ordered, jnp.inf).min(-1, keepdims=True)
        scores = jnp.where(scores >= least, scores, -jnp.inf)
    return scores


def texts_of(rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[str]:
    """Decodes sampled rows, without the start symbol and up to the end."""
    return [tokenizer.decode(row[1 : row.index(SEP) if SEP in row else None]) for row in map(list, rows)]
