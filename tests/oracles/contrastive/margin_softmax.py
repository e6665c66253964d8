"""Oracles of `lossfns.contrastive.margin_softmax`."""

import math

import numpy as np

from tests.oracles._shared import cosine, log_sum_exp


def of_classes(embeddings, class_vectors, labels, scale, own):
    """Cross-entropies of scaled cosines in which the label's is replaced by own(cosine, whether x is zero)."""
    values = np.full(len(labels), np.nan)
    for i, x in enumerate(embeddings):
        if 0 <= labels[i] < len(class_vectors):
            scores = [scale * cosine(x, w) for w in class_vectors]
            scores[labels[i]] = scale * own(cosine(x, class_vectors[labels[i]]), not np.any(x))
            values[i] = log_sum_exp(scores) - scores[labels[i]]
    return values


def arcface(embeddings, class_vectors, labels, *, scale=64.0, margin=0.5, beyond="cosine", block_size=None):
    """ArcFace, equation 3, by the arc cosine."""

    def own(c, zero):
        if zero:
            return 0.0
        angle = math.acos(max(-1.0, min(1.0, c)))
        if beyond == "linear" and angle >= math.pi - margin:
            return c - margin * math.sin(margin)
        return c if beyond == "easy" and c <= 0 else math.cos(angle + margin)

    return of_classes(embeddings, class_vectors, labels, scale, own)


def cosface(embeddings, class_vectors, labels, *, scale=64.0, margin=0.35, block_size=None):
    """CosFace, equation 4."""
    return of_classes(embeddings, class_vectors, labels, scale, lambda c, zero: c - margin)
