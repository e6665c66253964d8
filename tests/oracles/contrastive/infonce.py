"""Oracles of `lossfns.contrastive.infonce`."""

import numpy as np

from tests.oracles._shared import cosine, log_sum_exp


def info_nce(queries, keys, *, temperature=1.0, similarity="dot", block_size=None):
    """CPC, equation 4: a softmax over the keys of the batch."""
    compare = cosine if similarity == "cosine" else np.dot
    scores = [[compare(q, k) / temperature for k in keys] for q in queries]
    return np.array([log_sum_exp(row) - row[i] for i, row in enumerate(scores)])
