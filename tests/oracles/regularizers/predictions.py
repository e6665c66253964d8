"""Oracles of `lossfns.regularizers.predictions`."""

import math

import numpy as np

from tests.oracles._shared import log_sum_exp
from tests.oracles.regularizers._shared import probabilities


def by_row(formula):
    def oracle(logits, *others, **kwargs):
        rows = [x.reshape(-1, x.shape[-1]) for x in (logits, *others)]
        values = [formula(*given, **kwargs) for given in zip(*rows, strict=True)]
        return np.array(values).reshape(logits.shape[:-1])

    return oracle


@by_row
def entropy_minimization(row):
    p = probabilities(row)
    return math.nan if p is None else -math.fsum(x * math.log(x) for x in p if x)


@by_row
def confidence_penalty(row, *, threshold=None):
    p = probabilities(row)
    if p is None:
        return math.nan
    entropy = -math.fsum(x * math.log(x) for x in p if x)
    return -entropy if threshold is None else max(0.0, threshold - entropy)


@by_row
def r_drop(row_a, row_b):
    """Both divergences by the logits, which do not underflow: log p_k - log q_k."""
    p, q = probabilities(row_a), probabilities(row_b)
    za, zb = log_sum_exp([float(x) for x in row_a]), log_sum_exp([float(x) for x in row_b])
    total = 0.0
    for a, b, pa, pb in zip(row_a, row_b, p, q, strict=True):
        if a == b == -math.inf:
            continue
        total += (pa - pb) * ((float(a) - za) - (float(b) - zb)) / 2
    return total


@by_row
def router_z(row):
    return log_sum_exp([float(x) for x in row]) ** 2


def moe_load_balance(logits, *, top_k=1):
    """Fedus 2021, equations 4 to 6, with the shares of all choices."""
    tokens, experts = logits.shape
    load, mass = [0.0] * experts, [0.0] * experts
    for row in logits:
        for e in sorted(range(experts), key=lambda e, row=row: (-row[e], e))[:top_k]:
            load[e] += 1 / (tokens * top_k)
        for e, p in enumerate(probabilities(row)):
            mass[e] += p / tokens
    return np.full(tokens, experts * math.fsum(f * p for f, p in zip(load, mass, strict=True)))
