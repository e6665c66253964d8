"""Oracles of `lossfns.preference.reference_free`."""

import math

from tests.oracles._shared import softplus
from tests.oracles.preference._shared import each, smoothed


def log1mexp(x):
    return math.log(-math.expm1(x)) if x < 0 else -math.inf


def orpo(chosen, rejected, *, weight=0.1, with_nll=True):
    """Hong 2024, equations 6 and 7; equal answers have the odds ratio one."""

    def value(x, y):
        if x > 0 or y > 0:
            return math.nan
        odds = 0.0 if x == y else (x - log1mexp(x)) - (y - log1mexp(y))
        return weight * softplus(-odds) - (x if with_nll else 0)

    return each(value, chosen, rejected)


def simpo(chosen, rejected, *, beta=2.0, gamma=0.5, label_smoothing=0.0):
    """Meng 2024, equation 6."""
    return each(lambda x, y: smoothed(beta * (x - y) - gamma, label_smoothing), chosen, rejected)


def cpo(chosen, rejected, *, beta=0.1, label_smoothing=0.0, nll_weight=1.0):
    """Xu 2024, equations 3 to 5."""
    return each(lambda x, y: smoothed(beta * (x - y), label_smoothing) - nll_weight * x, chosen, rejected)


def slic_hinge(chosen, rejected, *, margin=1.0):
    """Zhao 2023, equation 1 without the regulariser."""
    return each(lambda x, y: max(0.0, margin - x + y), chosen, rejected)
