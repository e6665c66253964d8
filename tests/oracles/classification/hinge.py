"""Oracles of `lossfns.classification.hinge`."""

import math

import numpy as np


def hinge(predictions, targets, *, margin=1.0, power=1):
    values = np.zeros(targets.shape)
    for index in np.ndindex(values.shape):
        t = targets[index]
        values[index] = max(0.0, margin - t * predictions[index]) ** power if t in (-1, 1) else math.nan
    return values


def squared_hinge(predictions, targets, *, margin=1.0):
    return hinge(predictions, targets, margin=margin, power=2)


def multiclass_hinge(logits, labels, *, form="crammer_singer", margin=1.0):
    values = []
    for row, y in zip(logits, labels, strict=True):
        missing = [max(0.0, margin + x - row[y]) for k, x in enumerate(row) if k != y and x > -math.inf]
        values.append(max(missing, default=0.0) if form == "crammer_singer" else math.fsum(missing))
    return np.array(values)
