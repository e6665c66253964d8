"""A linear probe: what logistic regression makes of frozen features with few labels and with many."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def draw_shots(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Returns the indices of `shots` examples of each class, or of all of a class that has fewer.

    More shots of the same seed contain the fewer ones.

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
) -> dict[str, float]:
    """Fits a linear classifier on standardised features at each budget of labels.

    Args:
        train: Features [N, D] and labels [N] to draw from.
        test: Features and labels to test on.
        budgets: Labels of each class.
        seed: Of the draw.

    Returns:
        `{"accuracy_BUDGET": accuracy}`.
    """
    result = {}
    for budget in budgets:
        chosen = draw_shots(train[1], budget, seed)
        result[f"accuracy_{budget}"] = float(fit_probe(train[0][chosen], train[1][chosen]).score(*test))
    return result


def fit_probe(features: np.ndarray, labels: np.ndarray, c: float = 1.0) -> Pipeline:
    """Logistic regression on standardised features; `c` is scikit-learn's, the reciprocal of the penalty's weight."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300, tol=1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits change no decision
        warnings.filterwarnings("ignore", "The number of unique classes")  # one label a class is meant
        return model.fit(features, labels)


def as_layer(model: Pipeline) -> dict[str, np.ndarray]:
    """A probe of three classes or more as the parameters of a dense layer: its logits of features as they come.

    >>> features = np.array([[0.0, 1.0], [4.0, 3.0], [2.0, 8.0]])
    >>> model = fit_probe(features, np.arange(3))
    >>> layer = as_layer(model)
    >>> bool(np.allclose(features @ layer["kernel"] + layer["bias"], model.decision_function(features), atol=1e-6))
    True
    """
    scaler, regression = (step for _, step in model.steps)
    kernel = regression.coef_.T / scaler.scale_[:, None]
    bias = regression.intercept_ - scaler.mean_ @ kernel
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
