"""Oracles of `lossfns.preference.dpo`."""

import math

from tests.oracles._shared import softplus
from tests.oracles.preference._shared import each, margin, sigmoid, smoothed


def dpo(*log_probs, beta=0.1, label_smoothing=0.0):
    """Rafailov 2023, equation 7; Mitchell 2023, equation 3."""
    return each(lambda *row: smoothed(beta * margin(*row), label_smoothing), *log_probs)


def robust_dpo(*log_probs, beta=0.1, flip_rate=0.1):
    """Ray Chowdhury 2024: both losses, weighted so that their mean over flips is the unflipped one."""

    def value(*row):
        z = beta * margin(*row)
        if math.isinf(z):
            return -z if flip_rate or z < 0 else 0.0
        return ((1 - flip_rate) * softplus(-z) - flip_rate * softplus(z)) / (1 - 2 * flip_rate)

    return each(value, *log_probs)


def ipo(*log_probs, tau=0.1):
    """Azar 2023, equation 17."""
    return each(lambda *row: (margin(*row) - 1 / (2 * tau)) ** 2, *log_probs)


def exo(*log_probs, beta=0.1, label_smoothing=4.5399929762484854e-05):
    """Ji 2024, equation 16: KL of (q, 1 - q) from (1 - e, e), with 0 log 0 = 0."""

    def value(*row):
        z = beta * margin(*row)
        pairs = ((sigmoid(z), -softplus(-z), 1 - label_smoothing), (sigmoid(-z), -softplus(z), label_smoothing))
        return math.fsum(q * (log_q - math.log(p)) for q, log_q, p in pairs if q)

    return each(value, *log_probs)
