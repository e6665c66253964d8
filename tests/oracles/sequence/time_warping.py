"""Oracles of `lossfns.sequence.time_warping`."""

import math

import numpy as np

from tests.oracles._shared import log_sum_exp, present, rows_of


def alignments(n, m):
    """Every path of cells from (0, 0) to (n - 1, m - 1) by steps down, right and diagonal."""
    if n == 1 and m == 1:
        yield ((0, 0),)
        return
    for i, j in ((n - 1, m), (n, m - 1), (n - 1, m - 1)):
        if i and j:
            for path in alignments(i, j):
                yield (*path, (n - 1, m - 1))


def soft_minimum(x, y, gamma):
    if not len(x) or not len(y):
        return 0.0 if len(x) == len(y) else math.inf
    costs = [math.fsum(math.fsum((x[i] - y[j]) ** 2) for i, j in path) for path in alignments(len(x), len(y))]
    return -gamma * log_sum_exp([-cost / gamma for cost in costs])


def soft_dtw(predictions, targets, predictions_where=None, targets_where=None, *, gamma=1.0, divergence=False):
    """Cuturi and Blondel 2017: the soft minimum over all alignments."""
    values = np.zeros(len(predictions))
    x_of, y_of = rows_of(predictions_where, len(predictions)), rows_of(targets_where, len(predictions))
    for b in range(len(predictions)):
        in_x, in_y = present(predictions.shape[1], x_of[b]), present(targets.shape[1], y_of[b])
        if in_x is None or in_y is None:
            values[b] = np.nan
            continue
        x, y = predictions[b][in_x], targets[b][in_y]
        values[b] = soft_minimum(x, y, gamma)
        if divergence:
            values[b] -= (soft_minimum(x, x, gamma) + soft_minimum(y, y, gamma)) / 2
    return values
