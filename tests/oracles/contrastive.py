"""Oracles of the contrastive losses."""

import numpy as np

from tests.oracles.common import cosine, log_sum_exp


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
