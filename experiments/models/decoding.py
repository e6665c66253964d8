"""Greedy decoding of CTC and transducer outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

MOST = 4
"""Maximum number of letters that a transducer may emit at one frame."""


def collapse(path: Sequence[int], blank_id: int = 0) -> list[int]:
    """The labels of a path of CTC: repeats merged, then blanks removed.

    >>> collapse([0, 3, 3, 0, 3, 1, 1])
    [3, 3, 1]
    """
    return [x for before, x in zip([blank_id, *path[:-1]], path, strict=True) if x not in (before, blank_id)]


def best_path(probabilities: np.ndarray, frames: np.ndarray, width: int = 1) -> list[list[int]]:
    """Greedy decoding: the labels of the path of the likeliest class at each frame.

    Args:
        probabilities: [N, T, V].
        frames: [N], number of present frames.
        width: Odd number of frames to average probabilities over first.
    """
    kept = probabilities * (np.arange(probabilities.shape[1]) < frames[:, None])[..., None]
    padded = np.pad(kept, ((0, 0), (width // 2, width // 2), (0, 0)))
    smooth = sum(padded[:, shift : shift + kept.shape[1]] for shift in range(width))
    paths = np.asarray(smooth).argmax(-1)
    return [collapse(path[:length].tolist()) for path, length in zip(paths, frames, strict=True)]


def transduce(
    encoded: jax.Array, frames: jax.Array, logits_of: Callable[[jax.Array, jax.Array], jax.Array], context: int
) -> jax.Array:
    """Greedy decoding of a transducer: at each frame the likeliest letters, up to `MOST`, until the blank.

    Args:
        encoded: [B, T, D].
        frames: [B], number of present frames.
        logits_of: Function from a frame [B, D] and the last letters [B, context] to logits.
        context: Number of letters that the predictor sees.

    Returns:
        int32 [B, T * MOST], the letters in order, 0 where none was emitted.
    """

    def step(last: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        frame, present = inputs
        written = []
        for _ in range(MOST):
            letter = jnp.where(present, logits_of(frame, last).argmax(-1), 0)
            present &= letter > 0
            last = jnp.where(present[:, None], jnp.concatenate([last[:, 1:], letter[:, None]], -1), last)
            written.append(letter)
        return last, jnp.stack(written, -1)

    there = jnp.arange(encoded.shape[1])[:, None] < frames[None]
    start = jnp.zeros((len(encoded), context), jnp.int32)
    _, letters = jax.lax.scan(step, start, (jnp.moveaxis(encoded, 1, 0), there))
    return jnp.moveaxis(letters, 0, 1).reshape(len(encoded), -1).astype(jnp.int32)
