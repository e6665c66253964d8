"""Oracles of `lossfns.regularizers.functions`."""

import math

import numpy as np

from tests.oracles.regularizers._shared import probabilities

WIDE = np.array([[1, -2, 3], [2, 1, -1], [-1, 2, 2], [3, -1, 1]]) / 8
OUT = np.array([[2, -1, 1], [-2, 3, 1], [1, 1, -3]]) / 4
"""Weights of a small network that are exact in any dtype."""


def network(x):
    return np.tanh(x @ WIDE) @ OUT


def network_slope(x):
    """d logits / d x of one input, [features, classes]."""
    return WIDE @ np.diag(1 - np.tanh(x @ WIDE) ** 2) @ OUT


def vat(inputs, directions, *, epsilon=1.0, steps=1):
    """Miyato 2017, section 3.3, with the Hessian of the divergence written out."""
    values = []
    for x, d in zip(inputs, directions, strict=True):
        p, slope = np.array(probabilities(network(x))), network_slope(x)
        hessian = slope @ (np.diag(p) - np.outer(p, p)) @ slope.T
        d = d / math.sqrt(d @ d) if d.any() else d
        for _ in range(steps):
            d = hessian @ d
            d = d / np.abs(d).max() if d.any() else d
            d = d / math.sqrt(d @ d) if d.any() else d
        q = np.array(probabilities(network(x + epsilon * d)))
        values.append(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a))
    return np.array(values)


def gradient_penalty(inputs, *, target=1.0, one_sided=False):
    """Of the network's first score."""
    lengths = [math.sqrt(math.fsum(g * g for g in network_slope(x)[:, 0])) for x in inputs]
    excess = [length - target for length in lengths]
    return np.array([max(e, 0.0) ** 2 if one_sided else e**2 for e in excess])


def fisher_diagonal(params, x, y):
    """Of a linear model with noise of variance 1: the mean of ((y - x w - b) x)^2, bias first."""
    errors = [float(b) - float(a @ params["weight"]) - float(params["bias"]) for a, b in zip(x, y, strict=True)]
    slopes = np.array([[e, *(e * np.asarray(a))] for e, a in zip(errors, x, strict=True)]).reshape(-1, x.shape[1] + 1)
    return np.mean(slopes**2, axis=0) if len(slopes) else np.zeros(x.shape[1] + 1)
