"""Oracles of `lossfns.classification.focal`."""

import math

import numpy as np

from tests.oracles._shared import softplus
from tests.oracles.classification.cross_entropy import softmax_cross_entropy


def times(a, b):
    """0 times infinity is 0."""
    return a * b if a and b else 0.0


def focused(nats, gamma):
    return times((1 - math.exp(-nats)) ** gamma, nats)


def focal(logits, labels, *, gamma=2.0, alpha=1.0):
    """Lin 2017, equation 5, of the softmax's probability of the label."""
    nats = softmax_cross_entropy(logits, labels)
    weights = np.broadcast_to(alpha, logits.shape[-1])
    return np.array([weights[y] * focused(v, gamma) for v, y in zip(nats, labels, strict=True)])


def sigmoid_focal(logits, targets, *, gamma=2.0, alpha=0.25):
    values = np.zeros(logits.shape)
    for index in np.ndindex(values.shape):
        x, t = logits[index], targets[index]
        positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
        if not 0 <= t <= 1:
            values[index] = math.nan
            continue
        values[index] = times(positive * t, focused(softplus(-x), gamma))
        values[index] += times(negative * (1 - t), focused(softplus(x), gamma))
    return values


def poly1(logits, labels, *, epsilon=2.0):
    """Leng 2022: one more term of (1 - p)."""
    return np.array([v + epsilon * (1 - math.exp(-v)) for v in softmax_cross_entropy(logits, labels)])


def asymmetric(logits, targets, *, gamma_positive=0.0, gamma_negative=4.0, margin=0.05, constant_weights=False):
    """Ben-Baruch 2020: probabilities of absent labels are lowered by the margin."""
    values = np.zeros(logits.shape)
    for index in np.ndindex(values.shape):
        x, t = logits[index], targets[index]
        if not 0 <= t <= 1:
            values[index] = math.nan
            continue
        q = math.exp(-softplus(x))
        lowered = max(1 - q - margin, 0.0)
        cost = softplus(x) if margin == 0 else -math.log(min(q + margin, 1.0))
        values[index] = times(t, focused(softplus(-x), gamma_positive))
        values[index] += times(1 - t, times(lowered**gamma_negative, cost))
    return values
