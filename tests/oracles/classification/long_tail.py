"""Oracles of `lossfns.classification.long_tail`."""

import math

import numpy as np

from tests.oracles._shared import negative_log_probability


def logit_adjusted(logits, labels, class_counts, *, tau=1.0):
    """Menon 2020, equation 10."""
    total = math.fsum(map(float, class_counts))
    values = []
    for row, y in zip(logits.tolist(), labels, strict=True):
        shares = [float(n) / total for n in class_counts]
        adjusted = [x + tau * math.log(p) if p else -math.inf for x, p in zip(row, shares, strict=True)]
        values.append(negative_log_probability(adjusted, int(y)))
    return np.array(values)


def ldam(logits, labels, class_counts, *, max_margin=0.5, scale=30.0):
    """Cao 2019, equations 12 and 13: margins proportional to n^(-1/4), the largest of which is C."""
    margins = [n**-0.25 if n else math.nan for n in map(float, class_counts)]
    factor = max_margin / max(m for m in margins if m == m)
    values = []
    for row, y in zip(logits.tolist(), labels, strict=True):
        pushed = [scale * (x - factor * margins[k] if k == y else x) for k, x in enumerate(row)]
        values.append(math.nan if margins[y] != margins[y] else negative_log_probability(pushed, int(y)))
    return np.array(values)


def class_balanced_weights(class_counts, *, beta=0.9999):
    """Cui 2019, equation 2: 1 / (1 + beta + ... + beta^(n-1)), with mean one over the classes that occur."""
    if min(class_counts) < 0:
        return np.full(len(class_counts), math.nan)
    weights = [1 / math.fsum(beta**i for i in range(int(n))) if n else 0.0 for n in class_counts]
    occurring = sum(n > 0 for n in class_counts)
    return np.array([w * occurring / (math.fsum(weights) or 1) for w in weights])
