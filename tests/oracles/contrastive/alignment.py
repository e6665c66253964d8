"""Oracles of `lossfns.contrastive.alignment`."""

import math

import numpy as np

from tests.oracles._shared import log_sum_exp


def unit(x):
    norm = math.sqrt(x @ x)
    return x / norm if norm else x


def alignment(view_a, view_b, *, alpha=2.0):
    """Wang and Isola, section 4.1.1."""
    pairs = zip(view_a, view_b, strict=True)
    return np.array([math.sqrt(np.square(unit(a) - unit(b)).sum()) ** alpha for a, b in pairs])


def uniformity(embeddings, *, t=2.0, block_size=None):
    """Wang and Isola, section 4.1.2, over the pairs i < j."""
    u = [unit(x) for x in embeddings]
    pairs = [-t * np.square(u[i] - u[j]).sum() for i in range(len(u)) for j in range(i)]
    return np.full(len(u), log_sum_exp(pairs) - math.log(len(pairs)) if pairs else 0.0)
