"""What the oracles of several families share."""

import math

import numpy as np


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


def entries(tree):
    """All numbers of a dict of arrays."""
    return [float(x) for name in sorted(tree) for x in np.ravel(tree[name])]


def logits_of(state, head, bias=None):
    """One row of logits."""
    products = [math.fsum(float(w) * float(x) for w, x in zip(row, state, strict=True)) for row in head]
    return products if bias is None else [x + float(b) for x, b in zip(products, bias, strict=True)]


def present(count, where):
    """Indices that are there: a mask, a length, or all."""
    if where is None:
        return list(range(count))
    where = np.asarray(where)
    if where.dtype == bool:
        return np.flatnonzero(where).tolist()
    return list(range(int(where))) if 0 <= where <= count else None


def is_hole(indices):
    return indices != list(range(len(indices)))


def rows_of(where, rows):
    return [None] * rows if where is None else where


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
