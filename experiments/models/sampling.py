"""Autoregressive sampling from a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.tokenizers import CLS, SEP, SPECIAL_IDS, Tokenizer


def sample(
    model: Any, params: Any, key: jax.Array, *, length: int, rows: int = 3, temperature: float = 1.0
) -> np.ndarray:
    """Samples texts from a causal language model, beginning with the start symbol.

    Args:
        model: The network; it maps tokens [B, T] and `valid` to logits [B, T, V].
        params: Its parameters.
        key: PRNG key.
        length: Sequence length, including the start symbol.
        rows: Number of texts.
        temperature: Divides the logits.

    Returns:
        int32 [rows, length]; a text ends at its first [SEP].
    """
    never = np.asarray([i for i in SPECIAL_IDS if i != SEP])

    def draw(position: jax.Array, tokens: jax.Array) -> jax.Array:
        logits: Any = model.apply({"params": params}, tokens, valid=jnp.ones_like(tokens, bool))
        scores = logits[:, position - 1].at[:, never].set(-jnp.inf) / temperature
        chosen = jax.random.categorical(jax.random.fold_in(key, position), scores)
        return tokens.at[:, position].set(chosen.astype(tokens.dtype))

    start = jnp.zeros((rows, length), jnp.int32).at[:, 0].set(CLS)
    return np.asarray(jax.jit(lambda tokens: jax.lax.fori_loop(1, length, draw, tokens))(start))


def texts_of(rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[str]:
    """Decodes sampled rows, without the start symbol and up to the end."""
    return [tokenizer.decode(row[1 : row.index(SEP) if SEP in row else None]) for row in map(list, rows)]
