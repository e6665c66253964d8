"""Oracles of `lossfns.joint_embedding.byol`."""

import numpy as np

from tests.oracles._shared import cosine
from tests.oracles.joint_embedding._shared import rows_of


def byol(predictions, targets):
    return rows_of(lambda i: 2 - 2 * cosine(predictions[i], targets[i]), predictions)


def simsiam(predictions, targets):
    return rows_of(lambda i: -cosine(predictions[i], targets[i]), predictions)


def data2vec(predictions, targets, *, beta=2.0):
    """Baevski 2022, equation 3, averaged over features."""

    def smooth(e):
        return e * e / 2 / beta if abs(e) <= beta else abs(e) - beta / 2

    return rows_of(lambda i: np.mean([smooth(e) for e in predictions[i] - targets[i]]), predictions)
