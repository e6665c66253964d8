"""Oracles of `lossfns.joint_embedding.barlow_vicreg`."""

import math

import numpy as np

from tests.oracles._shared import cosine


def moments(view):
    """Mean of each feature, and its deviations."""
    count = max(len(view), 1)
    mean = [math.fsum(column) / count for column in view.T]
    return [[x - m for x, m in zip(row, mean, strict=True)] for row in view]


def barlow_twins(view_a, view_b, *, redundancy_weight=0.0051, eps=1e-5):
    """Zbontar 2021, equations 1 and 2, with the batch normalisation of their code: biased variance, eps in the root."""
    pairs, features = view_a.shape
    if pairs == 0:
        return np.zeros(0)
    a, b = moments(view_a), moments(view_b)

    def deviation(x, i):
        return math.sqrt(math.fsum(row[i] ** 2 for row in x) / pairs + eps)

    value = 0.0
    for i in range(features):
        for j in range(features):
            scale = deviation(a, i) * deviation(b, j)
            product = math.fsum(x[i] * y[j] for x, y in zip(a, b, strict=True)) / pairs
            c = product / scale if scale else 0.0
            value += (1 - c) ** 2 if i == j else redundancy_weight * c * c
    return np.full(pairs, value)


def covariance(view, i, j):
    """Unbiased; 0 for one row."""
    x = moments(view)
    return math.fsum(row[i] * row[j] for row in x) / max(len(view) - 1, 1)


def vicreg(
    view_a,
    view_b,
    *,
    invariance_weight=25.0,
    variance_weight=25.0,
    covariance_weight=1.0,
    target_deviation=1.0,
    eps=1e-4,
):
    """The authors' loss: mean over features, the hinge halved, off-diagonal covariances over features."""
    features = view_a.shape[1]
    variance = spread = 0.0
    for view in (view_a, view_b):
        for i in range(features):
            variance += max(0.0, target_deviation - math.sqrt(covariance(view, i, i) + eps)) / features / 2
            spread += math.fsum(covariance(view, i, j) ** 2 for j in range(features) if j != i) / features
    of_batch = variance_weight * variance + covariance_weight * spread
    distances = [math.fsum((x - y) ** 2) / features for x, y in zip(view_a, view_b, strict=True)]
    return np.array([invariance_weight * d + of_batch for d in distances])


def whitened(view, eps):
    """Inverse of the lower Cholesky factor, by elimination; None if a pivot is lost."""
    pairs, features = view.shape
    sigma = [[(1 - eps) * covariance(view, i, j) + eps * (i == j) for j in range(features)] for i in range(features)]
    lower = np.zeros((features, features))
    for i in range(features):
        for j in range(i + 1):
            rest = sigma[i][j] - math.fsum(lower[i, k] * lower[j, k] for k in range(j))
            if i == j and rest <= 1e-12 * sigma[i][i]:
                return None
            lower[i, j] = math.sqrt(rest) if i == j else rest / lower[j, j]
    white = np.zeros((pairs, features))
    for n, x in enumerate(moments(view)):
        for i in range(features):
            white[n, i] = (x[i] - math.fsum(lower[i, k] * white[n, k] for k in range(i))) / lower[i, i]
    return white


def wmse(view_a, view_b, *, eps=0.0, normalize=True):
    """Ermolov 2021: whiten each view by its Cholesky factor, then compare."""
    a, b = whitened(view_a, eps), whitened(view_b, eps)
    if a is None or b is None:
        return np.full(len(view_a), np.nan)
    if normalize:
        return np.array([2 - 2 * cosine(x, y) for x, y in zip(a, b, strict=True)])
    return np.array([np.mean((x - y) ** 2) for x, y in zip(a, b, strict=True)])
