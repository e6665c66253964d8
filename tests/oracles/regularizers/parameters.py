"""Oracles of `lossfns.regularizers.parameters`."""

import math

import numpy as np

from tests.oracles._shared import entries


def l1(params, *, weight=1.0):
    return weight * math.fsum(abs(x) for x in entries(params))


def l2(params, *, weight=1.0, half=False):
    return weight * math.fsum(x * x for x in entries(params)) / (2 if half else 1)


def proximal(params, anchor, *, weight=1.0, half=False):
    squares = [(x - y) ** 2 for x, y in zip(entries(params), entries(anchor), strict=True)]
    return weight * math.fsum(squares) / (2 if half else 1)


def elastic_net(params, *, l1_weight=1.0, l2_weight=1.0):
    return l1(params, weight=l1_weight) + l2(params, weight=l2_weight)


def l2_sp(params, start, new, *, start_weight=0.1, new_weight=0.01):
    return proximal(params, start, weight=start_weight, half=True) + l2(new, weight=new_weight, half=True)


def ewc(params, anchor, fisher, *, weight=1.0):
    triples = list(zip(entries(params), entries(anchor), entries(fisher), strict=True))
    if any(not f >= 0 for _, _, f in triples):
        return math.nan
    return weight / 2 * math.fsum(f * (x - y) ** 2 for x, y, f in triples)


def orthogonality(params, *, weight=1.0, side="columns"):
    """Inner products of all pairs of columns, or rows, less 1 on the diagonal, squared."""
    total = 0.0
    for name in params:
        matrix = np.reshape(params[name], (-1, params[name].shape[-1]))
        for vectors in [matrix.T] * (side != "rows") + [matrix] * (side != "columns"):
            for i, a in enumerate(vectors):
                for j, b in enumerate(vectors):
                    total += (math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True)) - (i == j)) ** 2
    return weight * total
