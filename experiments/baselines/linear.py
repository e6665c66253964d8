"""Logistic regression on standardised features."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def fit_linear(features: np.ndarray, labels: np.ndarray, c: float = 1.0) -> Pipeline:
    """Fits logistic regression on standardised features; `c` is scikit-learn's inverse regularisation strength."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300, tol=1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # full convergence would not change the predictions
        warnings.filterwarnings("ignore", "The number of unique classes")  # one label per class is intended
        return model.fit(features, labels)


def as_layer(model: Pipeline) -> dict[str, np.ndarray]:
    """Returns a probe of at least three classes as the parameters of a dense layer on unstandardised features.

    >>> features = np.array([[0.0, 1.0], [4.0, 3.0], [2.0, 8.0]])
    >>> model = fit_linear(features, np.arange(3))
    >>> layer = as_layer(model)
    >>> bool(np.allclose(features @ layer["kernel"] + layer["bias"], model.decision_function(features), atol=1e-6))
    True
    """
    scaler, regression = (step for _, step in model.steps)
    kernel = regression.coef_.T / scaler.scale_[:, None]
    bias = regression.intercept_ - scaler.mean_ @ kernel
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def linear_error(x: np.ndarray, y: np.ndarray, split: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    """Share of wrong answers on test rows, with the penalty chosen on validation rows.

    Args:
        x: Features [N, D].
        y: Labels [N].
        split: Training, validation and test rows.
    """
    fit, check, test = split
    models = [fit_linear(x[fit], y[fit], c) for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)]
    return 1 - float(max(models, key=lambda model: model.score(x[check], y[check])).score(x[test], y[test]))


def logistic_scores(x: np.ndarray, y: np.ndarray, c: float, weights: str | None, classes: int) -> Any:
    """The log-probabilities of logistic regression as a function of inputs; a class without examples has none."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, class_weight=weights, max_iter=2_000, tol=1e-3))
    model.fit(x, y)

    def scores(inputs: np.ndarray) -> np.ndarray:
        found = np.zeros((len(inputs), classes))
        found[:, model.classes_] = model.predict_proba(inputs)
        return np.asarray(np.log(np.maximum(found, 1e-300)))

    return scores
