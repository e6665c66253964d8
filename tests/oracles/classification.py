"""Oracles of the cross-entropies."""

import math

import numpy as np

from tests.oracles.common import log_sum_exp, negative_log_probability, softplus


def cross_entropy_of_row(row, label, label_smoothing=0.0, smoothing_over="all", z_loss=0.0, soft_cap=None):
    """Szegedy 2016: 1 - e at the label and e over the classes that exist; PaLM's z-loss; Gemma 2's soft cap."""
    if soft_cap is not None:
        row = [x if x == -math.inf else soft_cap * math.tanh(x / soft_cap) for x in row]
    value = negative_log_probability(row, label)
    if label_smoothing:
        reached = [k for k, x in enumerate(row) if x > -math.inf and (smoothing_over == "all" or k != label)]
        spread = [negative_log_probability(row, k) for k in reached] or [value]
        value = (1 - label_smoothing) * value + label_smoothing * math.fsum(spread) / len(spread)
    if z_loss:
        value += z_loss * log_sum_exp(row) ** 2
    return value


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
