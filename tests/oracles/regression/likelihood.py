"""Oracles of `lossfns.regression.likelihood`."""

import math

import numpy as np

from tests.oracles.regression._shared import entrywise


@entrywise
def gaussian_nll(mean, log_variance, target, *, beta=0.0, full=False):
    """The density of the normal distribution, with Seitzer's weight."""
    error = (mean - target) ** 2 * math.exp(-log_variance) if mean != target else 0.0
    value = (log_variance + error + (math.log(2 * math.pi) if full else 0)) / 2
    return value * math.exp(beta * log_variance)


@entrywise
def poisson_nll(given, count, *, full=False, log_rate=True):
    """-log of e^-r r^y / y!, without y! unless it is full."""
    rate = float(np.exp(given)) if log_rate else given
    if count < 0 or rate < 0:
        return math.nan
    log_of_rate = given if log_rate else math.log(rate) if rate else -math.inf
    return rate - (count * log_of_rate if count else 0.0) + (math.lgamma(count + 1) if full else 0.0)
