"""Log-mel spectrograms, and masks that hide parts of them in training."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

WINDOW, HOP, BANDS = 0.025, 0.0125, 40
"""Length of a window and hop between windows in seconds, and number of mel bands."""


def mel(hertz: float | np.ndarray) -> np.ndarray:
    """The mel scale (O'Shaughnessy 1987).

    >>> mel(700.0).round(2).item()
    781.17
    """
    return np.asarray(2_595 * np.log10(1 + np.asarray(hertz) / 700))


@functools.cache
def mel_filters(rate: int, size: int, bands: int = BANDS, low: float = 60.0, high: float = 8_000.0) -> np.ndarray:
    """Triangles [size // 2 + 1, bands] over the frequencies of a Fourier transform, equally wide on the mel scale."""
    edges = np.linspace(mel(low), mel(high), bands + 2)
    at = mel(np.arange(size // 2 + 1) * rate / size)[:, None]
    rising = (at - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - at) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def log_mel(samples: np.ndarray, rate: int) -> np.ndarray:
    """The logarithm of the power in each mel band minus its mean over frames, which removes a fixed filter.

    Args:
        samples: [n], at least one window of them.
        rate: Samples a second.

    Returns:
        float32 [1 + (n - window) // hop, BANDS], with deviation 1 over all its entries.
    """
    width, hop = round(WINDOW * rate), round(HOP * rate)
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float32), width)[::hop]
    size = 1 << (width - 1).bit_length()
    power = np.abs(np.fft.rfft(frames * np.hanning(width).astype(np.float32), size)) ** 2
    logs = np.log(power @ mel_filters(rate, size) + 1e-10)
    centred = logs - logs.mean(0)
    return np.asarray(centred / max(centred.std(), 1e-6), np.float32)


def trimmed(samples: np.ndarray, threshold: float = 0.02) -> np.ndarray:
    """Trims samples before the first and after the last one of at least a share of the peak.

    >>> trimmed(np.array([0, 1, 50, 0, -100, 0, 0])).tolist()
    [50, 0, -100]
    """
    loud = np.flatnonzero(np.abs(samples) >= threshold * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def add_noise(samples: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """Normalises a signal to power 1 and adds white noise at a signal-to-noise ratio in decibels."""
    signal = samples / np.sqrt(np.mean(samples.astype(np.float64) ** 2))
    return np.asarray(signal + 10 ** (-decibels / 20) * rng.standard_normal(len(signal)))


def spec_augment(
    key: jax.Array, features: jax.Array, frames: jax.Array, *, masks: int = 2, bands: int = 8, share: float = 0.15
) -> jax.Array:
    """SpecAugment without time warping (Park et al. 2019, arXiv:1904.08779): hides random bands and times.

    Args:
        key: PRNG key.
        features: [B, T, M], with mean 0, the value of masked entries.
        frames: int [B], number of present frames.
        masks: Number of masks of each kind.
        bands: Maximum number of bands in a mask.
        share: Maximum share of the frames in a mask.

    Returns:
        [B, T, M].
    """
    batch, length, height = features.shape
    hidden = jnp.zeros((batch, 1, 1), bool)
    for number in range(masks):
        keys = jax.random.split(jax.random.fold_in(key, number), 4)
        width = jnp.floor(jax.random.uniform(keys[0], (batch, 1)) * (bands + 1))
        start = jnp.floor(jax.random.uniform(keys[1], (batch, 1)) * (height - width + 1))
        places = jnp.arange(height)[None]
        hidden |= ((places >= start) & (places < start + width))[:, None, :]
        width = jnp.floor(jax.random.uniform(keys[2], (batch, 1)) * share * frames[:, None])
        start = jnp.floor(jax.random.uniform(keys[3], (batch, 1)) * (frames[:, None] - width + 1))
        places = jnp.arange(length)[None]
        hidden |= ((places >= start) & (places < start + width))[:, :, None]
    return jnp.where(hidden, 0, features)
