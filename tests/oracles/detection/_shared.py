"""What the oracles of several losses share."""

import math

import numpy as np


def corners(box, layout):
    """None for a box that is turned inside out."""
    x1, y1, x2, y2 = map(float, box)
    if layout == "centre":
        x1, y1, x2, y2 = x1 - x2 / 2, y1 - y2 / 2, x1 + x2 / 2, y1 + y2 / 2
    return (x1, y1, x2, y2) if x2 >= x1 and y2 >= y1 else None


def length(a1, a2, b1, b2):
    return max(min(a2, b2) - max(a1, b1), 0.0)


def measures(a, b):
    """IoU, area of the union and of the box around both, its sides."""
    intersection = length(a[0], a[2], b[0], b[2]) * length(a[1], a[3], b[1], b[3])
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    width, height = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    return (intersection / union if union else 0.0), union, width * height, width, height


def pairwise(cost):
    def oracle(predictions, targets, *, layout="corners"):
        values = []
        for p, t in zip(predictions.reshape(-1, 4), targets.reshape(-1, 4), strict=True):
            a, b = corners(p, layout), corners(t, layout)
            values.append(cost(a, b) if a and b else math.nan)
        return np.array(values).reshape(predictions.shape[:-1])

    return oracle


def one_minus_giou(a, b):
    overlap, union, hull, _, _ = measures(a, b)
    return 1 - overlap + ((hull - union) / hull if hull else 0.0)
