"""Linear probe: logistic regression on frozen features with few and with many labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.baselines.linear import fit_linear


def draw_shots(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Returns the indices of `shots` examples per class, or of all examples of a smaller class.

    With the same seed, a larger draw contains the smaller ones.

    >>> draw_shots(np.array([0, 0, 1, 1, 1]), 1, seed=0).shape
    (2,)
    """
    order = np.random.default_rng([seed, 2]).permutation(len(labels))
    ranked = order[np.argsort(labels[order], kind="stable")]
    _, first, count = np.unique(labels[ranked], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(first, count)
    return ranked[rank < shots]


def probe(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], budgets: Sequence[int], seed: int
) -> list[dict[str, float]]:
    """Fits a linear classifier on standardised features at each budget of labels.

    Args:
        train: Features [N, D] and labels [N] to draw from.
        test: Features and labels to test on.
        budgets: Labels per class.
        seed: Seed of the draw.

    Returns:
        `{"labels": budget, "accuracy": accuracy}` for each budget.
    """
    rows = []
    for budget in budgets:
        chosen = draw_shots(train[1], budget, seed)
        accuracy = float(fit_linear(train[0][chosen], train[1][chosen]).score(*test))
        rows.append({"labels": budget, "accuracy": accuracy})
    return rows
