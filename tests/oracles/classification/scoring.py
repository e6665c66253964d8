"""Oracles of `lossfns.classification.scoring`."""

import itertools
import math

import numpy as np

from tests.oracles._shared import negative_log_probability


def sparsemax(logits, labels):
    """max over distributions p of <p, x> - |p|^2 / 2, minus x_y, plus 1/2, over all supports that p may have."""
    values = []
    for row, y in zip(logits.tolist(), labels, strict=True):
        exists = [k for k, x in enumerate(row) if x > -math.inf]
        best = -math.inf
        for size in range(1, len(exists) + 1):
            for support in itertools.combinations(exists, size):
                tau = (math.fsum(row[k] - row[y] for k in support) - 1) / size if y in exists else math.inf
                p = [row[k] - row[y] - tau if y in exists else 0.0 for k in support]
                if min(p) >= 0:
                    gain = math.fsum(q * (row[k] - row[y]) - q * q / 2 for q, k in zip(p, support, strict=True))
                    best = max(best, gain)
        values.append(best + 0.5 if y in exists else math.inf)
    return np.array(values)


def brier(logits, labels):
    values = []
    for row, y in zip(logits.tolist(), labels, strict=True):
        p = [math.exp(-negative_log_probability(row, k)) for k in range(len(row))]
        values.append(math.fsum((q - (k == y)) ** 2 for k, q in enumerate(p)))
    return np.array(values)
