"""Linear models and gradient boosting on a table, each with the best settings on validation rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from experiments.data.folds import Fold

LINEAR, BOOSTING, TRIVIAL = "linear model", "gradient boosting", "base rate"
BASELINES = (LINEAR, BOOSTING, TRIVIAL)
"""Ridge or logistic regression; trees, which take gaps and any scale as they are; the mean of the training targets."""
PENALTIES = tuple(10.0**power for power in range(-4, 5))
TREES = tuple((rate, leaves) for rate in (0.03, 0.1) for leaves in (2, 4, 8, 16, 32))
"""Learning rate and leaves of gradient boosting; the number of trees is chosen on a tenth of the training rows."""


def candidates(name: str, *, classify: bool) -> list[Any]:
    """The unfitted models that a baseline chooses from."""
    if name == LINEAR:
        return [LogisticRegression(C=1 / p, max_iter=1_000) if classify else Ridge(p, solver="svd") for p in PENALTIES]
    of: Any = HistGradientBoostingClassifier if classify else HistGradientBoostingRegressor
    common = {"max_iter": 500, "early_stopping": True, "n_iter_no_change": 10, "random_state": 0}
    return [of(learning_rate=rate, max_leaf_nodes=leaves, **common) for rate, leaves in TREES]


def outputs(model: Any, features: np.ndarray) -> np.ndarray:
    """Log-odds of class 1, or predicted targets."""
    found: np.ndarray = (model.decision_function if hasattr(model, "decision_function") else model.predict)(features)
    return found


def fit_best(name: str, features: np.ndarray, targets: np.ndarray, fold: Fold, loss: Callable[..., Any]) -> np.ndarray:
    """Outputs for the test rows, of the model with the lowest loss on the validation rows.

    Args:
        name: One of `BASELINES`.
        features: [N, D]; gradient boosting takes NaN.
        targets: [N], integer classes 0 and 1 or real numbers.
        fold: Its rows.
        loss: A function of outputs and targets.
    """
    classify, seen = targets.dtype.kind == "i", targets[fold.train]
    if name == TRIVIAL:
        mean = float(seen.mean())
        return np.full(len(fold.test), np.log(mean / (1 - mean)) if classify else mean)
    with threadpool_limits(1):  # with more threads than free cores they wait for each other, for minutes
        models = [m.fit(features[fold.train], seen) for m in candidates(name, classify=classify)]
    checked = [loss(outputs(m, features[fold.validation]), targets[fold.validation]) for m in models]
    return outputs(models[int(np.argmin(checked))], features[fold.test])
