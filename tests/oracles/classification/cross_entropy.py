"""Oracles of `lossfns.classification.cross_entropy`."""

import numpy as np

from tests.oracles._shared import cross_entropy_of_row, negative_log_probability, softplus


def softmax_cross_entropy(logits, labels, **kwargs):
    values = np.zeros(labels.shape)
    for index in np.ndindex(labels.shape):
        values[index] = cross_entropy_of_row(logits[index].tolist(), int(labels[index]), **kwargs)
    return values


def soft_cross_entropy(logits, targets):
    """-sum_k t_k log p_k with 0 log 0 = 0."""
    values = np.zeros(logits.shape[:-1])
    for index in np.ndindex(values.shape):
        row, target = logits[index].tolist(), targets[index]
        values[index] = sum(t * negative_log_probability(row, k) for k, t in enumerate(target) if t)
    return values


def sigmoid_cross_entropy(logits, targets, *, label_smoothing=0.0, positive_weight=1.0):
    """-w t log s(x) - (1 - t) log s(-x), the target drawn towards 1/2 by the smoothing."""
    values = np.zeros(logits.shape)
    for index in np.ndindex(values.shape):
        x, t = logits[index], targets[index] * (1 - label_smoothing) + label_smoothing / 2
        positive = positive_weight * t * softplus(-x) if t else 0.0
        negative = (1 - t) * softplus(x) if t != 1 else 0.0
        values[index] = positive + negative
    return values
