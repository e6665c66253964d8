"""Baselines for wrong labels and outliers: neighbours that vote, and regressions that scikit-learn makes robust."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import HuberRegressor, LinearRegression
from sklearn.neighbors import KNeighborsClassifier

from experiments.data.tables import PLAUSIBLE

Baseline = Callable[[float, np.ndarray, np.ndarray], Any]
"""Of a strength, inputs [N, D] and targets [N]: what has `predict`."""


def neighbours(k: float, x: np.ndarray, y: np.ndarray) -> Any:
    """The most frequent label of the k nearest examples, or of all where there are fewer."""
    return KNeighborsClassifier(n_neighbors=min(int(k), len(x))).fit(x, y)


def least_squares(_: float, x: np.ndarray, y: np.ndarray) -> Any:
    """Linear regression."""
    return LinearRegression().fit(x, y)


def huber_regression(epsilon: float, x: np.ndarray, y: np.ndarray) -> Any:
    """Linear regression by Huber's loss with a scale that is estimated too; epsilon of at least 1."""
    return HuberRegressor(epsilon=epsilon, max_iter=1_000).fit(x, y)


def cleaned(_: float, x: np.ndarray, y: np.ndarray) -> Any:
    """Linear regression on the heights that are plausible: what knowledge of the subject is worth."""
    kept = (y >= PLAUSIBLE[0]) & (y <= PLAUSIBLE[1])
    return LinearRegression().fit(x[kept], y[kept])


REGRESSORS: dict[str, tuple[Baseline, tuple[float, ...]]] = {
    "least squares": (least_squares, (0.0,)),
    "Huber regression": (huber_regression, (1.01, 1.1, 1.35, 2.0, 4.0)),
}
CLEANED = {"cleaned by hand": (cleaned, (0.0,))}
