"""Oracles of the functions of parameters."""

import math

import numpy as np


def entries(tree):
    """All numbers of a dict of arrays."""
    return [float(x) for name in sorted(tree) for x in np.ravel(tree[name])]


def l1(params, *, weight=1.0):
    return weight * math.fsum(abs(x) for x in entries(params))


def l2(params, *, weight=1.0, half=False):
    return weight * math.fsum(x * x for x in entries(params)) / (2 if half else 1)


def proximal(params, anchor, *, weight=1.0, half=False):
    squares = [(x - y) ** 2 for x, y in zip(entries(params), entries(anchor), strict=True)]
    return weight * math.fsum(squares) / (2 if half else 1)
