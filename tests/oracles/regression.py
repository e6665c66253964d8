"""Oracles of the regression losses."""

import itertools
import math

import numpy as np
from scipy import integrate

from tests.oracles.common import cosine


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


def entrywise(formula):
    """An oracle of arrays of one shape from a formula of numbers."""

    def oracle(*arrays, **kwargs):
        return np.vectorize(lambda *entries: formula(*map(float, entries), **kwargs), otypes=[float])(*arrays)

    return oracle


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


@entrywise
def quantile(prediction, target, *, quantile=0.5):
    return quantile * (target - prediction) if target > prediction else (1 - quantile) * (prediction - target)


@entrywise
def expectile(prediction, target, *, expectile=0.5):
    return (expectile if target > prediction else 1 - expectile) * (target - prediction) ** 2


@entrywise
def log_squared_error(prediction, target):
    if prediction < -1 or target < -1:
        return math.nan
    if -1 in (prediction, target):
        return math.inf
    return (math.log1p(prediction) - math.log1p(target)) ** 2


def cosine_distance(predictions, targets):
    return np.array([1 - cosine(a, b) for a, b in zip(predictions, targets, strict=True)])


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


def general_loss(x, alpha):
    """Barron 2019, equation 13, with its limits."""
    if alpha == 2:
        return x * x / 2
    if alpha == 0:
        return math.log(x * x / 2 + 1)
    if alpha == -math.inf:
        return 1 - math.exp(-x * x / 2)
    if alpha == math.inf:
        return float(np.exp(x * x / 2)) - 1
    b = abs(alpha - 2)
    return b / alpha * ((x * x / b + 1) ** (alpha / 2) - 1)


@entrywise
def barron(error, alpha=1.0, scale=1.0):
    return general_loss(error / scale, alpha) if scale > 0 else math.nan


def partition(alpha):
    """The integral of exp(-loss), piece by piece on a logarithmic axis."""
    edges = (-45, -10, -5, -2, -1, 0, 1, 2, 4, 8, 16, 32, 64)
    pieces = [
        integrate.quad(lambda s: math.exp(s - general_loss(math.exp(s), alpha)), a, b, epsabs=0, epsrel=1e-12)[0]
        for a, b in itertools.pairwise(edges)
    ]
    return 2 * math.fsum(pieces)


@entrywise
def adaptive_barron(error, alpha=1.0, scale=1.0):
    if alpha < 0 or scale <= 0:
        return math.nan
    return general_loss(error / scale, alpha) + math.log(scale) + math.log(partition(alpha))
