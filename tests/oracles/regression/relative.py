"""Oracles of `lossfns.regression.relative`."""

import math

import numpy as np

from tests.oracles._shared import cosine
from tests.oracles.regression._shared import entrywise


@entrywise
def log_squared_error(prediction, target):
    if prediction < -1 or target < -1:
        return math.nan
    if -1 in (prediction, target):
        return math.inf
    return (math.log1p(prediction) - math.log1p(target)) ** 2


def cosine_distance(predictions, targets):
    return np.array([1 - cosine(a, b) for a, b in zip(predictions, targets, strict=True)])
