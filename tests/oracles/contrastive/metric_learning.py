"""Oracles of `lossfns.contrastive.metric_learning`."""

import math

import numpy as np

from tests.oracles._shared import cosine, log_sum_exp, softplus
from tests.oracles.contrastive._shared import of_class


def n_pairs(anchors, positives, *, length_weight=0.0, block_size=None):
    """Sohn, equation 6."""
    values = np.zeros(len(anchors))
    for i, a in enumerate(anchors):
        gaps = [a @ positives[j] - a @ positives[i] for j in range(len(anchors)) if j != i]
        values[i] = softplus(log_sum_exp(gaps)) if gaps else 0
        values[i] += length_weight * (a @ a + positives[i] @ positives[i])
    return values


def circle(embeddings, labels, *, scale=80.0, margin=0.4, weights_gradient=False, block_size=None):
    """Circle loss, equations 5 to 8."""
    values = np.zeros(len(labels))
    for i, x in enumerate(embeddings):
        positives, negatives = ([cosine(x, embeddings[j]) for j in part] for part in of_class(labels, i))
        if positives and negatives:
            pull = [-scale * max(1 + margin - s, 0) * (s - (1 - margin)) for s in positives]
            push = [scale * max(s + margin, 0) * (s - margin) for s in negatives]
            values[i] = softplus(log_sum_exp(pull) + log_sum_exp(push))
    return values


def multi_similarity(embeddings, labels, *, alpha=2.0, beta=50.0, threshold=1.0, mining_margin=0.1):
    """Multi-similarity, equations 10, 11 and 15."""
    values = np.zeros(len(labels))
    for i, x in enumerate(embeddings):
        positives, negatives = ([cosine(x, embeddings[j]) for j in part] for part in of_class(labels, i))
        if mining_margin is not None:
            least, most = min(positives, default=math.inf), max(negatives, default=-math.inf)
            positives = [s for s in positives if s < most + mining_margin]
            negatives = [s for s in negatives if s > least - mining_margin]
        if positives:
            values[i] += softplus(log_sum_exp([-alpha * (s - threshold) for s in positives])) / alpha
        if negatives:
            values[i] += softplus(log_sum_exp([beta * (s - threshold) for s in negatives])) / beta
    return values
