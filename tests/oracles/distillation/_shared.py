"""What the oracles of several losses share."""

import math

from tests.oracles._shared import log_sum_exp


def log_softmax(row):
    z = log_sum_exp(row)
    return [x - z if x > -math.inf else -math.inf for x in row]


def divergence(p, q):
    """KL(p || q) of log-probabilities."""
    terms = [math.exp(a) * (a - b) if b > -math.inf else math.inf for a, b in zip(p, q, strict=True) if a > -math.inf]
    return math.fsum(terms) if p and not all(a == -math.inf for a in p) else math.nan
