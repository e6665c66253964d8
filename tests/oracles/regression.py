"""Oracles of the regression losses."""

import numpy as np


def squared_error(predictions, targets):
    errors = [p - t for p, t in zip(predictions.ravel(), targets.ravel(), strict=True)]
    return np.array([e * e for e in errors]).reshape(targets.shape)


def absolute_error(predictions, targets):
    errors = [p - t for p, t in zip(predictions.ravel(), targets.ravel(), strict=True)]
    return np.array([abs(e) for e in errors]).reshape(targets.shape)


def huber(predictions, targets, *, delta=1.0):
    """Huber 1964: e^2 / 2 up to delta, delta (|e| - delta / 2) beyond."""
    values = np.zeros(targets.shape)
    for index in np.ndindex(values.shape):
        e = abs(predictions[index] - targets[index])
        values[index] = e * e / 2 if e <= delta else delta * (e - delta / 2)
    return values
