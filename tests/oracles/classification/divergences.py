"""Oracles of `lossfns.classification.divergences`."""

import math

import numpy as np

from tests.oracles._shared import negative_log_probability


def distribution(row):
    return [math.exp(-negative_log_probability(row, k)) for k in range(len(row))]


def divergence(row, other):
    """sum_k p_k log(p_k / q_k), from the logarithms."""
    nats = [(negative_log_probability(row, k), negative_log_probability(other, k)) for k in range(len(row))]
    return math.fsum(math.exp(-a) * (b - a) for a, b in nats if math.exp(-a))


def kl_divergence(logits, target_logits):
    return np.array([divergence(t, x) for x, t in zip(logits.tolist(), target_logits.tolist(), strict=True)])


def jensen_shannon(logits_a, logits_b):
    values = []
    for a, b in zip(logits_a.tolist(), logits_b.tolist(), strict=True):
        value = 0.0
        for p, q in zip(distribution(a), distribution(b), strict=True):
            m = (p + q) / 2
            value += (p * math.log(p / m) if p else 0.0) / 2 + (q * math.log(q / m) if q else 0.0) / 2
        values.append(value)
    return np.array(values)


def generalized_kl(log_predictions, targets):
    values = []
    for row, target in zip(log_predictions.tolist(), targets.tolist(), strict=True):
        terms = [(t * (math.log(t) - x) if t > 0 else 0.0) - t + np.exp(x) for x, t in zip(row, target, strict=True)]
        total = math.nan if min(target) < 0 else sum(terms)
        values.append(math.inf if total > np.finfo(np.float32).max else total)  # e^x overflows float32 at 89
    return np.array(values)
