"""Wrong labels and outliers in known shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from experiments.data.draws import Pool

Kind = Literal["symmetric", "by class"]
LOOKALIKES = {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}
"""Lookalike of each digit, as in Patrini et al. (2016, arXiv:1609.03683); "by class", only these digits flip."""


def transition(kind: Kind, share: float, classes: int = 10) -> np.ndarray:
    """Probability of each label given the class, [V, V], rows sum to one.

    Args:
        kind: "symmetric" flips to any other class; "by class" to a digit's lookalike, or in other data than ten digits
            to the next class.
        share: Share of flipped labels; "by class", among the labels of classes with a lookalike.
        classes: V.

    >>> transition("symmetric", 0.3, 4)[0].tolist()
    [0.7, 0.09999999999999999, 0.09999999999999999, 0.09999999999999999]
    >>> transition("by class", 0.4)[7, [1, 7]].tolist()
    [0.4, 0.6]
    """
    if kind == "symmetric":
        return np.where(np.eye(classes, dtype=bool), 1 - share, share / (classes - 1))
    pairs = LOOKALIKES if classes == 10 else {k: (k + 1) % classes for k in range(classes)}
    matrix = np.eye(classes)
    for true, label in pairs.items():
        matrix[true, true], matrix[true, label] = 1 - share, share
    return matrix


def flip_labels(labels: np.ndarray, matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws a label for each class [N] from its row of a transition matrix; int32 [N].

    >>> flip_labels(np.array([0, 1, 2]), np.eye(3)[[1, 2, 0]], np.random.default_rng(0)).tolist()
    [1, 2, 0]
    """
    edges = np.cumsum(matrix, axis=1)[labels]
    return np.minimum((rng.random((len(labels), 1)) >= edges).sum(1), len(matrix) - 1).astype(np.int32)


def add_outliers(targets: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Adds 5 to 15 standard deviations to a share of the targets [N], all to one side, like a wrong unit.

    >>> round(float(add_outliers(np.arange(10.0), 0.0, np.random.default_rng(0)).max()), 1)
    9.0
    """
    chosen = rng.permutation(len(targets)) < round(share * len(targets))
    return np.where(chosen, targets + targets.std() * rng.uniform(5, 15, len(targets)), targets)


def draw_noisy(
    pool: Pool, share: float, kind: str, seeds: Sequence[int], seed: int, held: float = 0.2
) -> dict[str, np.ndarray]:
    """Draws training examples, validation examples and noisy labels for each of S seeds of a study.

    Args:
        pool: N examples. Classes (integers) are flipped, numbers get outliers.
        share: Share of flips or outliers.
        kind: Kind of flips, see `transition`; ignored for numbers.
        seeds: One per network.
        seed: Seed of the study.
        held: Share of the pool to validate on.

    Returns:
        `rows` and `held`: int [S, n], indices into the pool; `given` [S, N], the labels. Classes are flipped among
        `rows` only, by the transition `matrix` [S, V, V]. Numbers have outliers in both parts, and are standardised by
        the median and the median absolute deviation of the training targets, which are robust: `raw` [S, n] is
        `centre + scale * given[rows]`, with `centre` and `scale` [S].
    """
    parts: dict[str, list[Any]] = {}
    for number in seeds:
        rng = np.random.default_rng([seed, number, round(1_000 * share)])
        rows, valid = pool.draw(held, [seed, number])
        found: dict[str, Any] = {"rows": rows.astype(np.int32), "held": valid.astype(np.int32), "given": pool.y.copy()}
        if np.issubdtype(pool.y.dtype, np.integer):
            matrix = transition("by class" if kind == "by class" else "symmetric", share, pool.classes)
            found["given"][rows] = flip_labels(pool.y[rows], matrix, rng)
            found["matrix"] = matrix.astype(np.float32)
        else:
            raw = found["given"]
            for part in (rows, valid):
                raw[part] = add_outliers(pool.y[part], share, rng)
            centre = np.float32(np.median(raw[rows]))
            scale = np.float32(1.4826 * np.median(np.abs(raw[rows] - centre)))  # a normal distribution's deviation
            given = ((raw - centre) / scale).astype(np.float32)
            found |= {"given": given, "centre": centre, "scale": scale, "raw": raw[rows].astype(np.float32)}
        for name, value in found.items():
            parts.setdefault(name, []).append(value)
    return {name: np.stack(values) for name, values in parts.items()}
