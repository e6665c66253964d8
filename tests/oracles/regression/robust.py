"""Oracles of `lossfns.regression.robust`."""

import itertools
import math

import numpy as np
from scipy import integrate

from tests.oracles.regression._shared import entrywise


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
