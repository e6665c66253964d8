"""Oracles of `lossfns.contrastive.triplet`."""

import math

import numpy as np

from tests.oracles._shared import softplus
from tests.oracles.contrastive._shared import of_class


def distance(norm, a, b):
    if norm == "l1":
        return math.fsum(abs(x - y) for x, y in zip(a, b, strict=True))
    squared = math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return squared if norm == "squared_l2" else math.sqrt(squared)


def triplet(anchor, positive, negative, *, margin=1.0, norm="l2", swap=False):
    """FaceNet, equation 3, for any distance; Balntas et al. for the swap."""
    values = []
    for a, p, n in zip(anchor, positive, negative, strict=True):
        far = distance(norm, a, n)
        if swap:
            far = min(far, distance(norm, p, n))
        values.append(max(0.0, margin + distance(norm, a, p) - far))
    return np.array(values)


def batch_hard_triplet(embeddings, labels, *, margin=None, norm="l2"):
    """Hermans et al., equation 5; the softplus in place of the hinge without a margin."""
    values = np.zeros(len(labels))
    for i, x in enumerate(embeddings):
        positives, negatives = of_class(labels, i)
        if positives and negatives:
            near = min(distance(norm, x, embeddings[n]) for n in negatives)
            gap = max(distance(norm, x, embeddings[p]) for p in positives) - near
            values[i] = softplus(gap) if margin is None else max(0.0, margin + gap)
    return values


def semi_hard_triplet(embeddings, labels, *, margin=0.2, norm="squared_l2"):
    """FaceNet, section 3.2: the nearest of the negatives that are farther than the positive."""
    values = np.zeros(len(labels))
    for i, x in enumerate(embeddings):
        positives, negatives = of_class(labels, i)
        if not positives or not negatives:
            continue
        for p in positives:
            near, away = distance(norm, x, embeddings[p]), [distance(norm, x, embeddings[n]) for n in negatives]
            farther = [d for d in away if d > near]
            values[i] += max(0.0, margin + near - (min(farther) if farther else max(away))) / len(positives)
    return values
