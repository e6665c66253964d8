"""Oracles of `lossfns.contrastive.simclr`."""

import math

import numpy as np

from tests.oracles._shared import cosine, log_sum_exp, softplus


def nt_xent(view_a, view_b, *, temperature=0.5, block_size=None):
    """SimCLR, algorithm 1: both views are anchors, only the anchor itself is left out; a pair has the mean of two."""
    pairs = len(view_a)
    z = [view for pair in zip(view_a, view_b, strict=True) for view in pair]
    values = np.zeros(pairs)
    for i in range(2 * pairs):
        positive = i + 1 if i % 2 == 0 else i - 1
        scores = [cosine(z[i], z[k]) / temperature for k in range(2 * pairs) if k != i]
        values[i // 2] += (log_sum_exp(scores) - cosine(z[i], z[positive]) / temperature) / 2
    return values


def anchors(view_a, view_b):
    """For each of the 2N anchors: its pair, the cosine of its positive, those of its negatives."""
    for views, others in ((view_a, view_b), (view_b, view_a)):
        for i, x in enumerate(views):
            apart = [j for j in range(len(views)) if j != i]
            yield i, cosine(x, others[i]), [cosine(x, y[j]) for j in apart for y in (view_a, view_b)]


def decoupled_contrastive(view_a, view_b, *, temperature=0.1, sigma=None, block_size=None):
    """DCL, equations 6 and 7."""
    values = np.zeros(len(view_a))
    powers = [math.exp(cosine(x, y) / (sigma or 1)) for x, y in zip(view_a, view_b, strict=True)]
    for i, positive, negatives in anchors(view_a, view_b):
        weight = 1 if sigma is None else 2 - powers[i] / (math.fsum(powers) / len(powers))
        if negatives:
            values[i] += (log_sum_exp([s / temperature for s in negatives]) - weight * positive / temperature) / 2
    return values


def hard_negative_contrastive(view_a, view_b, *, beta=1.0, temperature=0.5, class_prior=0.1, block_size=None):
    """Robinson et al., equation 4 and the authors' estimate of it; for beta = 0 Chuang et al., equations 7 and 8."""
    values = np.zeros(len(view_a))
    for i, positive, negatives in anchors(view_a, view_b):
        if not negatives:
            continue
        p, scores = positive / temperature, [s / temperature for s in negatives]
        total = log_sum_exp([beta * s for s in scores])
        mean = log_sum_exp([beta * s - total + s for s in scores])
        # exp(mean) - prior exp(p), over exp(mean)
        rest = 1 - class_prior * math.exp(p - mean) if p - mean < 700 else -math.inf
        log_g = mean + math.log(rest / (1 - class_prior)) if rest > 0 else -math.inf
        values[i] += softplus(math.log(len(scores)) + max(log_g, -1 / temperature) - p) / 2
    return values


def debiased_contrastive(view_a, view_b, *, temperature=0.5, class_prior=0.1, block_size=None):
    return hard_negative_contrastive(view_a, view_b, beta=0.0, temperature=temperature, class_prior=class_prior)
