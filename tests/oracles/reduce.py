"""Oracles of `lossfns.reduce`."""

import math


def weighted_sum(values, weights):
    return math.fsum(float(v) * float(w) for v, w in zip(values.ravel(), weights.ravel(), strict=True) if w)


def weighted_mean(values, weights):
    total = math.fsum(map(float, weights.ravel()))
    return weighted_sum(values, weights) / total if total else 0.0
