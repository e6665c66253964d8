"""A small convolutional encoder, and image augmentation by matrix products."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

CHUNK = 256
"""Number of images per encoder call."""


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Size of the encoder."""

    channels: tuple[int, ...] = (16, 32, 64)
    """Channels of each convolution; a convolution halves height and width."""
    features: int = 128
    """Size of the probed representation."""
    projection: int = 64
    """Size of the embedding in the contrastive loss."""


class ConvEncoder(nn.Module):
    """Convolutions with stride 2 and a dense layer. LayerNorm keeps the examples independent.

    `dtype` is the dtype of convolutions and matrix products; parameters, norms and outputs are float32.
    """

    config: EncoderConfig
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to representations [N, features]."""
        x = images
        for number, channels in enumerate(self.config.channels):
            x = nn.Conv(channels, (3, 3), strides=(2, 2), dtype=self.dtype, name=f"conv_{number}")(x)
            x = nn.gelu(nn.LayerNorm(name=f"conv_norm_{number}")(x))
        x = nn.Dense(self.config.features, dtype=self.dtype, name="dense")(x.reshape(len(x), -1))
        return nn.LayerNorm(name="norm")(x)


class Embedding(NamedTuple):
    """Outputs of a network: the probe reads `features` [N, features], the loss reads `output` [N, ...]."""

    features: jax.Array
    output: jax.Array


class Projector(nn.Module):
    """The encoder with SimCLR's projection head: a hidden layer and an embedding."""

    config: EncoderConfig
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array) -> Embedding:
        """Maps [N, H, W, C] to representations and embeddings [N, projection]."""
        features = ConvEncoder(self.config, self.dtype, name="encoder")(images)
        hidden = jax.nn.relu(nn.Dense(self.config.features, dtype=self.dtype, name="hidden")(features))
        return Embedding(features, nn.Dense(self.config.projection, use_bias=False, name="embedding")(hidden))


class ImageClassifier(nn.Module):
    """The encoder with a linear classifier."""

    config: EncoderConfig
    num_classes: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array) -> Embedding:
        """Maps [N, H, W, C] to representations and logits [N, num_classes]."""
        features = ConvEncoder(self.config, self.dtype, name="encoder")(images)
        return Embedding(features, nn.Dense(self.num_classes, name="head")(features))


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Strength of the augmentation."""

    shift: float = 0.08
    """Largest shift in each direction, as a fraction of the image size."""
    zoom: float = 0.15
    """Largest change of scale, drawn separately for height and width; 0.15 is up to 15 % larger or smaller."""
    contrast: float = 0.4
    """Largest reduction of the contrast, as a fraction."""
    noise: float = 0.05
    """Standard deviation of the noise; the image's range is 0 to 1."""


def augment(key: jax.Array, images: jax.Array, config: AugmentConfig) -> jax.Array:
    """Returns a random view of each image: shifted, scaled, with less contrast and with noise.

    Args:
        key: PRNG key.
        images: [N, H, W, C], 0 to 1.
        config: Strength of the augmentation.

    Returns:
        [N, H, W, C]. Shift and scale use exact bilinear interpolation, with zeros outside the image.
    """
    count, height, width, _ = images.shape
    keys = jax.random.split(key, 4)
    shift = jax.random.uniform(keys[0], (2, count), minval=-config.shift, maxval=config.shift)
    scale = jnp.exp(jax.random.uniform(keys[1], (2, count), minval=-config.zoom, maxval=config.zoom))
    rows = resampling(height, shift[0] * height, scale[0])
    columns = resampling(width, shift[1] * width, scale[1])
    views = jnp.einsum("nij,njkc->nikc", rows, images)
    views = jnp.einsum("nlk,nikc->nilc", columns, views)
    contrast = 1 - config.contrast * jax.random.uniform(keys[2], (count, 1, 1, 1))
    return views * contrast + config.noise * jax.random.normal(keys[3], views.shape)


def resampling(size: int, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns matrices [N, size, size] that shift (in pixels) and scale an axis about its centre, bilinearly.

    >>> resampling(3, jnp.array([1.0]), jnp.array([1.0]))[0].tolist()  # moves index 0 to 1
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    middle = (size - 1) / 2
    pixels = jnp.arange(size)
    source = (pixels[None, :] - middle - shift[:, None]) / scale[:, None] + middle
    return jnp.maximum(0.0, 1.0 - jnp.abs(source[:, :, None] - pixels[None, None, :]))


def encode(config: EncoderConfig, params: Any, images: np.ndarray, scale: float) -> np.ndarray:
    """Returns the representations [N, features] of images without augmentation, in chunks of `CHUNK`.

    Args:
        config: Size of the encoder.
        params: Its parameters.
        images: uint8 [N, H, W, C].
        scale: Largest pixel value.
    """
    blocks = []
    for start in range(0, len(images), CHUNK):
        rows = images[start : start + CHUNK].astype(np.float32)
        padded = np.concatenate([rows, np.zeros((CHUNK - len(rows), *rows.shape[1:]), np.float32)])
        blocks.append(np.asarray(_encode(config, scale, params, padded))[: len(rows)])
    return np.concatenate(blocks)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(config: EncoderConfig, scale: float, params: Any, images: jax.Array) -> Any:
    return ConvEncoder(config).apply({"params": params}, images / scale)
