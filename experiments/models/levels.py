"""A causal model of characters with heads that predict from its states, pooled over words, phrases and sentences."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import lossfns
from experiments.models.transformer import Dense, Encoder, TransformerConfig, mean_over

LEVELS = ("word", "phrase", "sentence")
CHARS, WORD, PHRASE, SENTENCE, ALL = "characters", "+ words", "+ phrases", "+ sentences", "all levels"
ARMS: dict[str, tuple[str, ...]] = {CHARS: (), WORD: ("word",), PHRASE: ("phrase",), SENTENCE: ("sentence",)}
ARMS[ALL] = LEVELS
"""Levels that an arm is trained on in addition to the characters."""
WITHOUT = {f"all but {level}s": tuple(other for other in LEVELS if other != level) for level in LEVELS}
"""The same, without one of three."""


class LevelsLM(nn.Module):
    """Predicts the next character, and from pooled states the next word, the next phrase's words, the next sentence.

    Attention is causal, so neither the state of a character nor the mean over a finished span depends on later text.
    """

    config: TransformerConfig
    vocab_size: int
    words: int
    levels: tuple[str, ...] = ()

    def setup(self) -> None:
        """Declares the encoder, and the heads of the levels in use: others would cost operations."""
        self.encoder = Encoder(self.config, self.vocab_size, causal=True)
        if "word" in self.levels:
            self.word_head = Dense(self.words, use_bias=True)
        if "phrase" in self.levels:
            self.phrase_head = Dense(self.words, use_bias=True)
        if "sentence" in self.levels:
            self.query = Dense(self.config.width, use_bias=True)
            self.next_embedding = nn.Embed(self.words, self.config.width)

    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
        """Returns logits of "char" [B, T, V], "word" and "phrase" [B, S, words]; of "sentence" queries and keys."""
        hidden, logits = self.states_and_logits(batch)
        out: dict[str, Any] = {"char": logits}
        if "word" in self.levels:
            out["word"] = self.word_head(pooled(hidden, batch, "word"))
        if "phrase" in self.levels:
            out["phrase"] = self.phrase_head(pooled(hidden, batch, "phrase"))
        if "sentence" in self.levels:
            words = batch["sentence_next"].reshape(-1, batch["sentence_next"].shape[-1])
            queries = self.query(pooled(hidden, batch, "sentence")).reshape(len(words), -1)
            out["sentence"] = queries, mean_over(self.next_embedding(jnp.maximum(words, 0)), words > 0)
        return out

    def states_and_logits(self, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Returns the states, and the logits of the next characters [B, T, V]."""
        hidden = self.states(batch)
        return hidden, self.encoder.attend(hidden)

    def states(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the state of each character, [B, T, width]."""
        tokens, segment_ids = batch["tokens"], batch["segment_ids"]
        return self.encoder(tokens, valid=jnp.ones(tokens.shape, bool), segment_ids=segment_ids)


def pooled(hidden: jax.Array, batch: Mapping[str, jax.Array], level: str) -> jax.Array:
    """Returns the mean state of each span of a level, [B, S, width]."""
    count = batch[f"{level}_where"].shape[-1]
    return lossfns.pool_spans(hidden, batch[f"{level}_spans"], num_spans=count).vectors


def shares_of(words: jax.Array, size: int) -> jax.Array:
    """Returns the relative frequencies [..., size] of the frequent words (numbered from 1) in rows of words [..., L].

    >>> shares_of(jnp.array([[1, 1, 3, 1, 0, -1]]), 4).tolist()
    [[0.0, 0.75, 0.0, 0.25]]
    """
    held = words > 0
    share = held / jnp.maximum(held.sum(-1, keepdims=True), 1)
    rows = words.reshape(-1, words.shape[-1])
    place = jnp.arange(len(rows))[:, None], jnp.maximum(rows, 0)
    return jnp.zeros((len(rows), size)).at[place].add(share.reshape(rows.shape)).reshape(*words.shape[:-1], size)
