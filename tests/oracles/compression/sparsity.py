"""Oracles of `lossfns.compression.sparsity`."""

import math

import numpy as np

from tests.oracles._shared import entries


def group_lasso(params, *, weight=1.0, axis=-1, by_size=True):
    """Yuan and Lin 2006, equation 2.1."""
    total = 0.0
    for x in params.values():
        for i in range(x.shape[axis]):
            group = [float(v) for v in np.take(x, i, axis).ravel()]
            total += math.sqrt(len(group) if by_size else 1) * math.hypot(*group)
    return weight * total


def l0_hard_concrete(log_alpha, *, weight=1.0, temperature=2 / 3, low=-0.1, high=1.1):
    """Louizos 2017, equation 12."""
    shift = temperature * math.log(-low / high)
    return weight * math.fsum(1 / (1 + math.exp(min(shift - x, 700))) for x in entries(log_alpha))


def gates(log_alpha, *, low=-0.1, high=1.1):
    """Louizos 2017, equation 13."""
    values = [1 / (1 + math.exp(min(-float(x), 700))) * (high - low) + low for x in log_alpha.ravel()]
    return np.array([min(max(v, 0.0), 1.0) for v in values]).reshape(log_alpha.shape)


def movement_scores(scores, params, gradients, *, rate=1.0):
    """Sanh 2020, equation 3."""
    rows = zip(scores.ravel(), params.ravel(), gradients.ravel(), strict=True)
    return np.array([s - rate * w * g for s, w, g in rows]).reshape(scores.shape)
