"""Small masked encoders: one with a head for pairs of segments, and one that detects replaced tokens."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.models.transformer import Block, Dense, TransformerConfig, mean_over


class LocalEncoder(nn.Module):
    """A Transformer with a convolution over three tokens below its blocks.

    It lets a small encoder use the neighbours of a token immediately; attention alone needs hundreds of steps for that.
    """

    config: TransformerConfig
    vocab_size: int
    dtype: str = "float32"

    def setup(self) -> None:
        """Declares the layers, so that `attend` can use the embedding."""
        small, width = nn.initializers.normal(0.02), self.config.width
        self.embedding = nn.Embed(self.vocab_size, width, embedding_init=small, name="embedding")
        self.segment_embedding = nn.Embed(2, width, embedding_init=small)
        self.embedding_norm = nn.LayerNorm()
        self.convolution = Dense(width, self.dtype)
        self.blocks = [Block(self.config, self.dtype, name=f"block_{i}") for i in range(self.config.depth)]
        self.final_norm = nn.LayerNorm()

    def __call__(self, tokens: jax.Array, *, valid: jax.Array, segments: jax.Array) -> jax.Array:
        """Maps tokens and segments [B, T], of which `valid` ones count, to float32 [B, T, width]."""
        x = self.embedding_norm(self.embedding(tokens) + self.segment_embedding(segments)) * valid[..., None]
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        x = x + self.convolution(jnp.concatenate([padded[:, :-2], x, padded[:, 2:]], axis=-1))
        for block in self.blocks:
            x = block(x, valid[:, None, None, :], False)
        return self.final_norm(x)

    def attend(self, hidden: jax.Array) -> jax.Array:
        """Returns the logits [..., V] of representations [..., D], with the embedding matrix as output layer."""
        rows, table = hidden.reshape(-1, hidden.shape[-1]).astype(self.dtype), self.embedding.embedding
        logits = jnp.einsum("nd,vd->nv", rows, table.astype(self.dtype), preferred_element_type=jnp.float32)
        return logits.reshape(*hidden.shape[:-1], self.vocab_size)


def unit(x: jax.Array) -> jax.Array:
    """Scales the last axis to a mean square of one.

    >>> unit(jnp.array([3.0, -3.0])).round(3).tolist()
    [1.0, -1.0]
    """
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


class PairedEncoder(nn.Module):
    """A masked encoder with logits of masked tokens and of a pair of segments.

    The pair's head reads, with a hidden layer, the means u and v of both segments, their product and their distance
    (Conneau et al. 2017, arXiv:1705.02364), and the product and cosine of two bags of embeddings with learnt weights of
    the words. Without the cosine, or with a head on one mean of all tokens, an encoder of this size stays at chance for
    many more steps; without the norm the hidden units die at large learning rates.
    """

    config: TransformerConfig
    vocab_size: int
    dtype: str = "float32"

    def setup(self) -> None:
        """Declares the encoder and the heads."""
        self.encoder = LocalEncoder(self.config, self.vocab_size, self.dtype)
        self.mlm_dense = Dense(self.config.width, self.dtype, use_bias=True)
        self.mlm_norm = nn.LayerNorm()
        self.mlm_bias = self.param("mlm_bias", nn.initializers.zeros, (self.vocab_size,))
        self.bag = Dense(self.config.width)
        self.word_head = Dense(1, use_bias=True)
        self.pair_hidden = Dense(self.config.width)
        self.pair_norm = nn.LayerNorm()
        self.pair_head = Dense(2, use_bias=True)

    def __call__(
        self, tokens: jax.Array, *, valid: jax.Array, segments: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns logits at the `positions` [B, P], [B, P, V], and of the pairs, [B, 2]; both float32."""
        logits, hidden = self.masked(tokens, valid=valid, segments=segments, positions=positions)
        u, v = (mean_over(hidden, valid & (segments == part)) for part in (0, 1))
        words = self.encoder.embedding_norm(self.encoder.embedding(tokens))
        words = self.bag(words) * jax.nn.sigmoid(self.word_head(words))
        a, b = (unit(mean_over(words, valid & (segments == part))) for part in (0, 1))
        overlap = jnp.sum(a * b, axis=-1, keepdims=True) / a.shape[-1] ** 0.5
        compared = self.pair_hidden(jnp.concatenate([u, v, u * v, jnp.abs(u - v), a * b], axis=-1))
        read = jnp.concatenate([jax.nn.gelu(self.pair_norm(compared)), overlap], axis=-1)
        return logits, self.pair_head(read)

    def masked(
        self, tokens: jax.Array, *, valid: jax.Array, segments: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns logits at the `positions` and the representations [B, T, width]; without the pair's head."""
        hidden = self.encoder(tokens, valid=valid, segments=segments)
        chosen = jnp.take_along_axis(hidden, positions[..., None], axis=1)
        transformed = self.mlm_norm(jax.nn.gelu(self.mlm_dense(chosen)))
        return self.encoder.attend(transformed) + self.mlm_bias[None, None], hidden


class ReplacedTokens(nn.Module):
    """ELECTRA: a small masked encoder fills in masked tokens, and another detects which of all tokens were replaced.

    Clark et al. 2020, arXiv:2003.10555. The generator has about half the width and does not share embeddings.
    """

    config: TransformerConfig
    vocab_size: int
    dtype: str = "float32"

    def setup(self) -> None:
        """Declares both encoders."""
        unit = 2 * self.config.heads  # rotations turn pairs of entries
        small = dataclasses.replace(self.config, width=max(self.config.width // 2 // unit, 1) * unit)
        self.generator = PairedEncoder(small, self.vocab_size, self.dtype)
        self.encoder = LocalEncoder(self.config, self.vocab_size, self.dtype)
        self.head = Dense(1, use_bias=True)

    def __call__(
        self, batch: Mapping[str, jax.Array], places: tuple[jax.Array, jax.Array, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Generates tokens and detects the replaced ones.

        Args:
            batch: {"tokens", "labels", "valid", "segments": [B, T]}; the labels are the original tokens.
            places: Positions, labels and validity [B, P] of the masked tokens, from `masked_places`.
            key: PRNG key of the draw.

        Returns:
            The generator's logits [B, P, V], the tokens [B, T] with the drawn ones, and for each token the log-odds
            [B, T] that it is not the original one.
        """
        (positions, labels, there), context = places, {name: batch[name] for name in ("valid", "segments")}
        logits, _ = self.generator.masked(batch["tokens"], positions=positions, **context)
        drawn = jnp.where(there, jax.random.categorical(key, jax.lax.stop_gradient(logits)), labels)
        tokens = jnp.put_along_axis(batch["labels"], positions, drawn.astype(labels.dtype), axis=1, inplace=False)
        return logits, tokens, self.head(self.encoder(tokens, **context))[..., 0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def initial_net(model: PairedEncoder | ReplacedTokens, length: int, key: jax.Array) -> Any:
    """Random parameters for texts of `length` tokens; with the same config and key the encoders are equal."""
    tokens = jnp.zeros((1, length), jnp.int32)
    valid, place = tokens == 0, tokens[:, :1]
    if isinstance(model, PairedEncoder):
        return model.init(key, tokens, valid=valid, segments=tokens, positions=place)["params"]
    batch = {"tokens": tokens, "labels": tokens, "valid": valid, "segments": tokens}
    params: Any = model.init(key, batch, (place, place, place == 0), key)["params"]
    paired = PairedEncoder(model.config, model.vocab_size, model.dtype)
    return {**params, "encoder": initial_net(paired, length, key)["encoder"]}
