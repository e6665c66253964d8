"""Oracles of `lossfns.noisy_labels.tempered`."""

import math

import numpy as np


def tempered_exp(x, t):
    if t == 1:
        return math.exp(x)
    base = 1 + (1 - t) * x
    return base ** (1 / (1 - t)) if base > 0 else 0.0


def tempered_log(x, t):
    if t == 1:
        return math.log(x) if x else -math.inf
    return (x ** (1 - t) - 1) / (1 - t)


def tempered_softmax(row, t):
    """Amid 2019, equation 6, the normaliser by bisection."""
    row = [x - max(row) for x in row if True]
    low, high = 0.0, 1.0
    while math.fsum(tempered_exp(x - high, t) for x in row if x > -math.inf) > 1:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        too_small = math.fsum(tempered_exp(x - middle, t) for x in row if x > -math.inf) > 1
        low, high = (middle, high) if too_small else (low, middle)
    return [tempered_exp(x - high, t) if x > -math.inf else 0.0 for x in row]


def bi_tempered(logits, labels, *, t1=0.8, t2=1.2):
    """Amid 2019, equation 7, with the label's row of the identity for y."""
    values = []
    for row, label in zip(logits.tolist(), labels, strict=True):
        if math.inf in row:
            row = [0.0 if x == math.inf else -math.inf for x in row]
        total = 0.0
        for k, p in enumerate(tempered_softmax(row, t2)):
            y = float(k == label)
            if y:
                total += y * (tempered_log(y, t1) - tempered_log(p, t1))
            total -= (y ** (2 - t1) - p ** (2 - t1)) / (2 - t1)
        values.append(total)
    return np.array(values)
