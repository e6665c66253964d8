"""A small convolutional encoder of frames, read by a linear layer or by a transducer."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.models.decoding import best_path, transduce

STRIDE = 2
"""Number of input frames per output frame."""


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Size of the network."""

    width: int = 96
    """Channels."""
    depth: int = 3
    """Residual convolutions after the first (which halves the frames); each doubles the dilation of the previous."""
    kernel: int = 5
    """Width of a convolution in frames."""
    context: int = 4
    """Number of last letters that the transducer's predictor sees."""
    joint: int = 32
    """Units of the transducer's joint network."""


def output_frames(frames: jax.Array) -> jax.Array:
    """Number of output frames of the encoder."""
    return -(-frames // STRIDE)


class Encoder(nn.Module):
    """Convolutions over time. LayerNorm keeps frames and examples independent."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps [B, T, M] to [B, T / STRIDE, width]."""
        width, kernel = self.config.width, (self.config.kernel,)
        x = nn.Conv(width, kernel, strides=(STRIDE,), name="conv_0")(features)
        for number in range(1, self.config.depth + 1):
            hidden = nn.Conv(width, kernel, kernel_dilation=(2 ** (number - 1),), name=f"conv_{number}")(
                nn.LayerNorm(name=f"norm_{number}")(x)
            )
            x = x + nn.relu(hidden)
        return nn.LayerNorm(name="norm")(x)


class FrameReader(nn.Module):
    """Logits of each output frame, for CTC or for frame classification."""

    config: EncoderConfig
    classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps [B, T, M] to [B, T / STRIDE, classes]."""
        return nn.Dense(self.classes, name="head")(Encoder(self.config, name="encoder")(features))


class Transducer(nn.Module):
    """Encoder, predictor and joint network; the predictor sees the last letters only (Ghodsi et al. 2020)."""

    config: EncoderConfig
    classes: int

    def setup(self) -> None:
        """Makes the layers."""
        self.encoder = Encoder(self.config)
        self.of_frame = nn.Dense(self.config.joint)
        self.letter = nn.Embed(self.classes, self.config.joint)
        self.of_letters = nn.Dense(self.config.joint)
        self.head = nn.Dense(self.classes)

    def __call__(self, features: jax.Array, labels: jax.Array) -> jax.Array:
        """Maps [B, T, M] and labels [B, L], 0 where there is none, to logits [B, T / STRIDE, L + 1, classes]."""
        padded = jnp.pad(labels, ((0, 0), (self.config.context, 0)))
        places = jnp.arange(labels.shape[1] + 1)[:, None] + jnp.arange(self.config.context)[None]
        return self.joint(self.encode(features)[:, :, None], self.predict(padded[:, places])[:, None])

    def encode(self, features: jax.Array) -> jax.Array:
        """Maps [B, T, M] to [B, T / STRIDE, joint]."""
        return self.of_frame(self.encoder(features))

    def predict(self, last: jax.Array) -> jax.Array:
        """Maps the last letters [..., context], 0 before the first, to [..., joint]."""
        return self.of_letters(self.letter(last).reshape(*last.shape[:-1], -1))

    def joint(self, frame: jax.Array, letters: jax.Array) -> jax.Array:
        """Logits from the sum of both; classes last."""
        return self.head(jnp.tanh(frame + letters))


@functools.partial(jax.jit, static_argnums=0)
def initial(model: FrameReader | Transducer, features: jax.Array, seed: int) -> Any:
    """Random parameters for an utterance like [1, T, M]."""
    labels = () if isinstance(model, FrameReader) else (jnp.zeros((1, 1), jnp.int32),)
    return model.init(jax.random.key(seed), features.astype(jnp.float32), *labels)["params"]


@functools.partial(jax.jit, static_argnums=0)
def probabilities(model: FrameReader, params: Any, features: jax.Array) -> jax.Array:
    """The probabilities of the classes at each output frame, [B, T / STRIDE, classes]."""
    logits: Any = model.apply({"params": params}, features)
    return jax.nn.softmax(logits)


@functools.partial(jax.jit, static_argnums=0)
def _transduce(model: Transducer, params: Any, features: jax.Array, frames: jax.Array) -> jax.Array:
    apply: Any = functools.partial(model.apply, {"params": params})

    def logits_of(frame: jax.Array, last: jax.Array) -> Any:
        return apply(frame, apply(last, method="predict"), method="joint")

    return transduce(apply(features, method="encode"), frames, logits_of, model.config.context)


def read(model: FrameReader | Transducer, params: Any, features: np.ndarray, frames: np.ndarray, width: int) -> Any:
    """Greedy transcripts of a network, as classes.

    Args:
        model: The network.
        params: Its parameters.
        features: [N, T, M].
        frames: int [N], number of present frames.
        width: Number of frames to average a `FrameReader`'s probabilities over.

    Returns:
        A list of classes for each utterance.
    """
    x, outputs = features.astype(np.float32), -(-frames // STRIDE)
    if isinstance(model, FrameReader):
        return best_path(np.asarray(probabilities(model, params, x)), outputs, width)
    return [row[row > 0].tolist() for row in np.asarray(_transduce(model, params, x, outputs))]


def uniform_alignment(labels: jax.Array, letters: jax.Array, frames: jax.Array, length: int) -> jax.Array:
    """The class of each frame if all letters of a text were equally long, with a blank between two equal letters.

    Args:
        labels: int [B, L], 0 after the text.
        letters: int [B], number of letters of each text.
        frames: int [B], number of frames of each utterance.
        length: Number of output frames.

    Returns:
        int [B, length], 0 after the utterance.

    >>> uniform_alignment(jnp.array([[1, 2, 2]]), jnp.array([3]), jnp.array([8]), 9).tolist()
    [[1, 1, 2, 2, 0, 0, 2, 2, 0]]
    """
    batch, most = labels.shape
    index = jnp.arange(most)[None]
    again = jnp.pad(labels[:, 1:] == labels[:, :-1], ((0, 0), (1, 0))) & (index < letters[:, None])
    place = index + jnp.cumsum(again, -1)  # of each letter among letters and blanks
    place = jnp.where(index < letters[:, None], place, 2 * most)
    spread = jnp.zeros((batch, 2 * most), labels.dtype).at[jnp.arange(batch)[:, None], place].set(labels, mode="drop")
    count = letters + jnp.sum(again, -1)
    at = jnp.arange(length)[None] * count[:, None] // jnp.maximum(frames, 1)[:, None]
    found = jnp.take_along_axis(spread, jnp.minimum(at, 2 * most - 1), -1)
    return jnp.where(jnp.arange(length)[None] < frames[:, None], found, 0)
