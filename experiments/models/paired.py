"""A small masked encoder with a head for pairs of segments."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.models.transformer import Block, Dense, TransformerConfig, mean_over


class LocalEncoder(nn.Module):
    """A Transformer with a convolution over three tokens below its blocks.

    With it a small encoder uses the neighbours of a token at once; attention alone needs hundreds of steps for that.
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
    (Conneau et al. 2017, arXiv:1705.02364), and the product of two bags of embeddings with learnt weights of the words.
    A head on one mean of all tokens, as a small encoder has it, stays at chance for many more steps.
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
        self.bag_weight = Dense(1, use_bias=True)
        self.pair_hidden = Dense(self.config.width, use_bias=True)
        self.pair_head = Dense(2, use_bias=True)

    def __call__(
        self, tokens: jax.Array, *, valid: jax.Array, segments: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns logits at the `positions` [B, P], [B, P, V], and of the pairs, [B, 2]; both float32."""
        hidden = self.encoder(tokens, valid=valid, segments=segments)
        chosen = jnp.take_along_axis(hidden, positions[..., None], axis=1)
        transformed = self.mlm_norm(jax.nn.gelu(self.mlm_dense(chosen)))
        u, v = (mean_over(hidden, valid & (segments == part)) for part in (0, 1))
        words = self.encoder.embedding_norm(self.encoder.embedding(tokens))
        words = self.bag(words) * jax.nn.sigmoid(self.bag_weight(words))
        a, b = (unit(mean_over(words, valid & (segments == part))) for part in (0, 1))
        read = jax.nn.gelu(self.pair_hidden(jnp.concatenate([u, v, u * v, jnp.abs(u - v), a * b], axis=-1)))
        return self.encoder.attend(transformed) + self.mlm_bias[None, None], self.pair_head(read)


@functools.partial(jax.jit, static_argnums=(0, 1))
def initial_net(model: PairedEncoder, length: int, key: jax.Array) -> Any:
    """Random parameters of a model for texts of `length` tokens."""
    tokens = jnp.zeros((1, length), jnp.int32)
    places: dict[str, Any] = {"valid": tokens == 0, "segments": tokens, "positions": tokens[:, :1]}
    return model.init(key, tokens, **places)["params"]
