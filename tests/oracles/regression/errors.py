"""Oracles of `lossfns.regression.errors`."""

import math

import numpy as np

from tests.oracles.regression._shared import entrywise


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


@entrywise
def smooth_l1(prediction, target, *, beta=1.0):
    """Girshick 2015, with the width of torch."""
    e = abs(prediction - target)
    return e * e / (2 * beta) if e < beta else e - beta / 2


@entrywise
def log_cosh(prediction, target):
    e = abs(prediction - target)
    if e < 1e-2:
        return e**2 / 2 - e**4 / 12 + e**6 / 45
    return e + math.log1p(math.exp(-2 * e)) - math.log(2)


@entrywise
def charbonnier(prediction, target, *, epsilon=1e-3):
    return math.hypot(prediction - target, epsilon)


@entrywise
def tukey_biweight(prediction, target, *, cutoff=4.685):
    """Integral of the influence e (1 - (e / c)^2)^2 up to the cutoff."""
    e = min(abs(prediction - target), cutoff)
    return e**2 / 2 - e**4 / (2 * cutoff**2) + e**6 / (6 * cutoff**4)
