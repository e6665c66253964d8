"""Oracles of `lossfns.joint_embedding.swav`."""

import math

import numpy as np

from tests.oracles._shared import log_sum_exp
from tests.oracles.joint_embedding._shared import log_softmax


def sinkhorn(scores, *, epsilon=0.05, iterations=3):
    """Caron 2020, equation 5: the exponential of the scores, made even; without rounds the softmax."""
    log_q = [[s / epsilon for s in row] for row in scores]
    return _even(log_q if iterations else [log_softmax(row) for row in log_q], iterations, scores.shape)


def _even(log_q, iterations, shape):
    """Cuturi 2013 in logarithms: prototypes to equal sums, then rows to sum one."""
    for _ in range(iterations):
        columns = [log_sum_exp([row[k] for row in log_q]) for k in range(shape[1])]
        log_q = [log_softmax([x - c for x, c in zip(row, columns, strict=True)]) for row in log_q]
    return np.exp(np.array(log_q).reshape(shape))


def swav(scores_a, scores_b, *, temperature=0.1, epsilon=0.05, iterations=3):
    codes_a, codes_b = (sinkhorn(x, epsilon=epsilon, iterations=iterations) for x in (scores_a, scores_b))

    def direction(scores, codes):
        log_p = [log_softmax([s / temperature for s in row]) for row in scores]
        return [-math.fsum(q * x for q, x in zip(*rows, strict=True) if q) for rows in zip(codes, log_p, strict=True)]

    return (np.array(direction(scores_a, codes_b)) + np.array(direction(scores_b, codes_a))) / 2


def msn(
    scores,
    target_scores,
    *,
    temperature=0.1,
    target_temperature=0.025,
    entropy_weight=1.0,
    sinkhorn_iterations=0,
):
    """Assran 2022, equation 1, with the constant of the authors' code."""
    count, prototypes = scores.shape
    if count == 0:
        return np.zeros(0)
    log_targets = [log_softmax([s / target_temperature for s in row]) for row in target_scores]
    targets = _even(log_targets, sinkhorn_iterations, target_scores.shape)
    log_p = [log_softmax([s / temperature for s in row]) for row in scores]
    mean = [math.fsum(math.exp(row[k]) for row in log_p) / count for k in range(prototypes)]
    entropy = -math.fsum(m * math.log(m) for m in mean if m)
    costs = [-math.fsum(t * x for t, x in zip(*rows, strict=True) if t) for rows in zip(targets, log_p, strict=True)]
    return np.array(costs) + entropy_weight * (math.log(prototypes) - entropy)
