"""What the oracles of several losses share."""

import math

import numpy as np

from tests.oracles._shared import softplus


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def each(function, *arrays, **kwargs):
    """A function of numbers, for each entry of arrays of one shape."""
    values = [function(*map(float, row), **kwargs) for row in zip(*(np.ravel(x) for x in arrays), strict=True)]
    return np.array(values).reshape(np.shape(arrays[0]))


def margin(chosen, rejected, base_chosen, base_rejected):
    return chosen - rejected - base_chosen + base_rejected


def smoothed(z, label_smoothing):
    return (1 - label_smoothing) * softplus(-z) + (label_smoothing * softplus(z) if label_smoothing else 0)
