"""Baselines for wrong labels and outliers: nearest neighbours, and scikit-learn's robust regressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import HuberRegressor, LinearRegression
from sklearn.neighbors import KNeighborsClassifier

from experiments.data.tables import PLAUSIBLE

Baseline = Callable[[np.ndarray, np.ndarray], Any]
"""Fits inputs [N, D] and targets [N]; returns an object with `predict`."""


def neighbours(k: float, x: np.ndarray, y: np.ndarray) -> Any:
    """The most frequent label of the nearest examples: k, rounded to at least one, or all where there are fewer."""
    return KNeighborsClassifier(n_neighbors=min(max(1, round(k)), len(x))).fit(x, y)


def least_squares(x: np.ndarray, y: np.ndarray) -> Any:
    """Linear regression."""
    return LinearRegression().fit(x, y)


def huber_regression(x: np.ndarray, y: np.ndarray) -> Any:
    """Linear regression by Huber's loss with the usual width of 1.35 scales; the scale is estimated too."""
    return HuberRegressor(epsilon=1.35, max_iter=10_000).fit(x, y)


def cleaned(x: np.ndarray, y: np.ndarray) -> Any:
    """Linear regression on the plausible heights only: the value of domain knowledge."""
    kept = (y >= PLAUSIBLE[0]) & (y <= PLAUSIBLE[1])
    return LinearRegression().fit(x[kept], y[kept])


REGRESSIONS: dict[str, Baseline] = {
    "least squares": least_squares,
    "Huber regression": huber_regression,
    "cleaned by hand": cleaned,
}
"""The last for heights in inches only."""
