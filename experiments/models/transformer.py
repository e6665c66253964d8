"""A Transformer for BERT-like (bidirectional) and GPT-like (causal) models, small enough to read and to train on a CPU.

Pre-norm blocks (Xiong et al. 2020, arXiv:2002.04745), rotary positions (Su et al. 2021, arXiv:2104.09864), GELU and no
biases in the products. Attention is written as two einsums: at the short lengths of these studies that is faster on a
CPU than `jax.nn.dot_product_attention`.

`dtype` is the input dtype of matrix products; their sums, the parameters and everything else are float32.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

SHARDING_RULES = (
    ("embedding/embedding$", (("tensor", "fsdp"),)),
    ("(qkv|mlp_in)/kernel$", (None, ("tensor", "fsdp"))),
    ("(attention_out|mlp_out)/kernel$", ("tensor", "fsdp")),
)
"""Sharding rules of these models for `train.shard_state`.

Over `tensor`: of two consecutive products, the first is split by columns and the second by rows, so that one all-reduce
is enough (Shoeybi et al. 2019, arXiv:1909.08053). Over `fsdp`: both by columns, because with rows the compiler gathers
the activations of all devices instead of the kernel.
"""


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Size of the Transformer."""

    width: int = 128
    """Size of a token's representation; a multiple of twice the number of heads."""
    depth: int = 4
    """Number of blocks; each has attention and a feed-forward layer."""
    heads: int = 2
    """Number of attention heads."""
    dropout: float = 0.0
    """Dropout rate of the outputs of a block in training."""
    recompute: bool = False
    """Recompute each block in the backward pass instead of storing its activations: less memory, a third more FLOPs."""


class Dense(nn.Module):
    """`x @ kernel (+ bias)` with inputs in `dtype` and sums in float32."""

    features: int
    dtype: str = "float32"
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., d] to [..., features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        # XLA's fast CPU product needs two matrices: with three axes the gradient takes twice as long.
        rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)
        y = jnp.matmul(rows, kernel.astype(self.dtype), preferred_element_type=jnp.float32)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,))[None, :]
        return y.reshape(*x.shape[:-1], self.features)


def rotate(x: jax.Array, *, base: float = 10_000.0) -> jax.Array:
    """Rotates each pair of entries of [B, T, H, D] by an angle proportional to its position.

    >>> float(rotate(jnp.ones((1, 2, 1, 2)))[0, 1, 0, 0])  # cos(1) - sin(1)
    -0.3011...
    """
    length, half = x.shape[1], x.shape[-1] // 2
    # With NumPy, so that they are constants: XLA would recompute them for every row of the batch.
    angles = np.arange(length)[:, None] * base ** (-np.arange(half)[None, :] / half)
    cos, sin = (jnp.asarray(f(angles)[None, :, None, :], x.dtype) for f in (np.cos, np.sin))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    config: TransformerConfig
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array, train: bool) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]; `visible` [B, 1, T, T] marks the keys (last axis) that a query attends to."""
        config, dtype = self.config, self.dtype
        drop = nn.Dropout(config.dropout, deterministic=not train)
        out = nn.initializers.variance_scaling(0.5 / config.depth, "fan_in", "normal")

        batch, length, width = x.shape
        qkv = Dense(3 * width, dtype, name="qkv")(nn.LayerNorm(name="attention_norm")(x))
        query, key, value = jnp.split(qkv.reshape(batch, length, 3 * config.heads, -1), 3, axis=2)
        query, key, value = rotate(query).astype(dtype), rotate(key).astype(dtype), value.astype(dtype)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        # Not -inf: a padding query without any visible key would give NaN, in the gradient too.
        scores = jnp.where(visible, scores / query.shape[-1] ** 0.5, -1e30)
        attention = jax.nn.softmax(scores).astype(dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", attention, value, preferred_element_type=jnp.float32)
        x = x + drop(Dense(width, dtype, kernel_init=out, name="attention_out")(mixed.reshape(batch, length, width)))

        h = Dense(4 * width, dtype, name="mlp_in")(nn.LayerNorm(name="mlp_norm")(x))
        return x + drop(Dense(width, dtype, kernel_init=out, name="mlp_out")(jnp.square(jax.nn.relu(h))))


class Encoder(nn.Module):
    """Maps tokens to contextual representations; `attend` computes the logits of the tied output layer."""

    config: TransformerConfig
    vocab_size: int
    causal: bool = False
    segments: int = 0
    dtype: str = "float32"

    def setup(self) -> None:
        """Declares the layers, so that `attend` can use the embedding."""
        small = nn.initializers.normal(0.02)
        self.embedding = nn.Embed(self.vocab_size, self.config.width, embedding_init=small, name="embedding")
        if self.segments:
            self.segment_embedding = nn.Embed(self.segments, self.config.width, embedding_init=small)
        block = nn.remat(Block, static_argnums=(3,)) if self.config.recompute else Block  # of (self, x, visible, train)
        self.blocks = [block(self.config, self.dtype, name=f"block_{i}") for i in range(self.config.depth)]
        self.embedding_norm = nn.LayerNorm()
        self.final_norm = nn.LayerNorm()
        self.drop = nn.Dropout(self.config.dropout)

    def __call__(
        self,
        tokens: jax.Array,
        *,
        valid: jax.Array,
        segments: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Encodes tokens.

        Args:
            tokens: Integers [B, T].
            valid: Boolean [B, T], False at padding; no token attends to it.
            segments: Integers [B, T], BERT's sentence A or B, added as an embedding.
            segment_ids: Integers [B, T], the number of each packed document; attention stays within a document.
            train: Whether dropout is active (rng `dropout`).

        Returns:
            Representations, float32 [B, T, width].
        """
        x, visible = self.trunk(tokens, valid=valid, segments=segments, segment_ids=segment_ids, train=train)
        for block in self.blocks[-1:]:
            x = block(x, visible, train)
        return self.final_norm(x)

    def trunk(
        self,
        tokens: jax.Array,
        *,
        valid: jax.Array,
        segments: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the input of the last block [B, T, width] and what is visible; the arguments are as in a call."""
        visible = valid[:, None, None, :]
        if self.causal:
            length = tokens.shape[1]
            visible = visible & jnp.tril(jnp.ones((length, length), bool))[None, None]
        if segment_ids is not None:
            visible = visible & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
        x = self.embedding(tokens)
        if segments is not None:
            x = x + self.segment_embedding(segments)
        x = self.drop(self.embedding_norm(x), deterministic=not train)
        for block in self.blocks[:-1]:
            x = block(x, visible, train)
        return x, visible

    def attend(self, hidden: jax.Array) -> jax.Array:
        """Returns the logits [..., V] of representations [..., D], with the embedding matrix as output layer."""
        rows, table = hidden.reshape(-1, hidden.shape[-1]), self.embedding.embedding
        rows, table = rows.astype(self.dtype), table.astype(self.dtype)
        logits = jnp.einsum("nd,vd->nv", rows, table, preferred_element_type=jnp.float32)
        return logits.reshape(*hidden.shape[:-1], self.vocab_size)


def mean_over(hidden: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns the mean of the representations [B, T, D] over the valid tokens [B, T].

    >>> mean_over(jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([[True, True, False]])).tolist()
    [[2.0]]
    """
    return jnp.sum(hidden * valid[..., None], axis=1) / jnp.maximum(valid.sum(axis=1, keepdims=True), 1)


class BertOutput(NamedTuple):
    """Logits of BERT's two tasks."""

    mlm_logits: jax.Array
    nsp_logits: jax.Array


class Bert(nn.Module):
    """BERT's encoder with its two heads (Devlin et al. 2019, arXiv:1810.04805)."""

    config: TransformerConfig
    vocab_size: int
    dtype: str = "float32"

    def setup(self) -> None:
        """Declares the encoder and the heads."""
        self.encoder = Encoder(self.config, self.vocab_size, segments=2, dtype=self.dtype)
        self.mlm_dense = Dense(self.config.width, self.dtype, use_bias=True)
        self.mlm_norm = nn.LayerNorm()
        self.mlm_bias = self.param("mlm_bias", nn.initializers.zeros, (self.vocab_size,))
        self.pooler = Dense(self.config.width, use_bias=True)
        self.nsp_head = Dense(2, use_bias=True)

    def __call__(
        self,
        tokens: jax.Array,
        *,
        valid: jax.Array,
        segments: jax.Array,
        positions: jax.Array,
        train: bool = False,
    ) -> BertOutput:
        """Returns logits at the masked `positions` [B, P] (float32 [B, P, V]) and for the pair [B, 2]."""
        logits, mean = self.masked(tokens, valid=valid, segments=segments, positions=positions, train=train)
        return BertOutput(logits, self.nsp_head(jnp.tanh(self.pooler(mean))))

    def masked(
        self,
        tokens: jax.Array,
        *,
        valid: jax.Array,
        segments: jax.Array,
        positions: jax.Array,
        train: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns logits at the masked `positions` [B, P] and the mean representation [B, width]."""
        hidden = self.encoder(tokens, valid=valid, segments=segments, train=train)
        chosen = jnp.take_along_axis(hidden, positions[..., None], axis=1)
        transformed = self.mlm_norm(jax.nn.gelu(self.mlm_dense(chosen)))
        return self.encoder.attend(transformed) + self.mlm_bias[None, None], mean_over(hidden, valid)


def masked_places(batch: Mapping[str, jax.Array], capacity: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns positions, labels and validity [B, capacity] of the masked tokens of {"masked", "labels": [B, T]}."""
    masked, positions = jax.lax.top_k(batch["masked"].astype(jnp.int32), capacity)
    return positions, jnp.take_along_axis(batch["labels"], positions, axis=1), masked > 0


class Classifier(nn.Module):
    """A linear classifier on the mean representation; the encoder has the shapes of BERT's, so BERT's weights fit."""

    config: TransformerConfig
    vocab_size: int
    num_classes: int

    def setup(self) -> None:
        """Declares the encoder and the head."""
        self.encoder = Encoder(self.config, self.vocab_size, segments=2)
        self.head = Dense(self.num_classes, use_bias=True, kernel_init=nn.initializers.zeros)

    def __call__(self, tokens: jax.Array, *, valid: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits [B, num_classes] of tokens [B, T]."""
        return self.head(self.features(tokens, valid=valid, train=train))

    def features(self, tokens: jax.Array, *, valid: jax.Array, train: bool = False) -> jax.Array:
        """Returns the input of the head, [B, width]."""
        hidden = self.encoder(tokens, valid=valid, segments=jnp.zeros_like(tokens), train=train)
        return mean_over(hidden, valid)


class CausalLM(nn.Module):
    """A GPT-like model with a tied output layer."""

    config: TransformerConfig
    vocab_size: int
    dtype: str = "float32"

    def setup(self) -> None:
        """Declares the causal encoder."""
        self.encoder = Encoder(self.config, self.vocab_size, causal=True, dtype=self.dtype)

    def __call__(
        self, tokens: jax.Array, *, valid: jax.Array, segment_ids: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Returns the next-token logits [B, T, V] of tokens [B, T]."""
        hidden = self.encoder(tokens, valid=valid, segment_ids=segment_ids, train=train)
        return self.encoder.attend(hidden)


class MultiTokenLM(nn.Module):
    """A GPT-like model that predicts several next tokens, each by its own last block (Gloeckle et al. 2024).

    Its parameters "encoder" are the parameters of a `CausalLM` for the first of these tokens. arXiv:2404.19737.
    """

    config: TransformerConfig
    vocab_size: int
    heads: int = 2
    dtype: str = "float32"

    def setup(self) -> None:
        """Declares the causal encoder and the last blocks of the further heads."""
        self.encoder = Encoder(self.config, self.vocab_size, causal=True, dtype=self.dtype)
        self.further = [Block(self.config, self.dtype, name=f"further_{h}") for h in range(1, self.heads)]

    def __call__(
        self, tokens: jax.Array, *, valid: jax.Array, segment_ids: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Returns the logits [B, heads, T, V] of the next tokens of tokens [B, T]."""
        x, visible = self.encoder.trunk(tokens, valid=valid, segment_ids=segment_ids, train=train)
        last = [self.encoder.blocks[-1], *self.further]
        hidden = jnp.stack([self.encoder.final_norm(block(x, visible, train)) for block in last], 1)
        return self.encoder.attend(hidden)
