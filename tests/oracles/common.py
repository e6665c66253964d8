"""What several oracles need."""

import math

import numpy as np


def log_sum_exp(row):
    """log sum_k exp(x_k); -inf for nothing."""
    top = max(row, default=-math.inf)
    if math.isinf(top):
        return top
    return top + math.log(math.fsum(math.exp(x - top) for x in row))


def negative_log_probability(row, k):
    """-log softmax(row)_k, in the limit as one logit grows to +inf: all of the probability is there."""
    if math.inf in row:
        return 0.0 if row[k] == math.inf else math.inf
    return log_sum_exp(row) - row[k] if row[k] > -math.inf else math.inf


def softplus(x):
    """log(1 + e^x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def cosine(a, b):
    """0 with the zero vector."""
    a, b = np.asarray(a), np.asarray(b)
    norms = math.sqrt(a @ a) * math.sqrt(b @ b)
    return float(a @ b) / norms if norms else 0.0
