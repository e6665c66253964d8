"""Oracles of `lossfns.noisy_labels.bounded`."""

import math

import numpy as np

from tests.oracles.noisy_labels._shared import nats_of


def generalized_cross_entropy(logits, labels, *, q=0.7, truncation=0.0):
    """Zhang 2018, equations 6 and 9."""
    values = []
    for row, y in zip(logits.tolist(), labels, strict=True):
        nats = nats_of(row)[y]
        if truncation and math.exp(-nats) <= truncation:
            nats = -math.log(truncation)
        values.append((1 - math.exp(-nats) ** q) / q if q else nats)
    return np.array(values)


def symmetric_cross_entropy(logits, labels, *, alpha=0.1, beta=1.0, log_zero=-4.0):
    """Wang 2019, equation 5: both sums over all classes."""
    values = []
    for row, y in zip(logits.tolist(), labels, strict=True):
        nats = nats_of(row)
        reverse = -math.fsum(math.exp(-n) * (0.0 if k == y else log_zero) for k, n in enumerate(nats))
        values.append((alpha * nats[y] if alpha else 0.0) + beta * reverse)
    return np.array(values)


def normalized_active_passive(logits, labels, *, alpha=1.0, beta=1.0, gamma=0.0, log_zero=-4.0):
    """Ma 2020, equations 2 and 9; classes that do not exist are in no sum, in the limit as they vanish."""
    values = []
    for row, y in zip(logits.tolist(), labels, strict=True):
        nats = nats_of(row)
        focal = [(1 - math.exp(-n)) ** gamma * n if n else 0.0 for n in nats if n < math.inf]
        own = (1 - math.exp(-nats[y])) ** gamma * nats[y] if nats[y] else 0.0
        active = 1.0 if nats[y] == math.inf else own / math.fsum(focal) if math.fsum(focal) else 0.0
        values.append(alpha * active - beta * log_zero * (1 - math.exp(-nats[y])))
    return np.array(values)
