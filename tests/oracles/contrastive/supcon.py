"""Oracles of `lossfns.contrastive.supcon`."""

import math

import numpy as np

from tests.oracles._shared import cosine, log_sum_exp


def supcon(embeddings, labels, *, form="out", temperature=0.1, base_temperature=None, block_size=None):
    """SupCon, equations 2 (out) and 3 (in)."""
    n = len(embeddings)
    values = np.zeros(n)
    for i in range(n):
        scores = {a: cosine(embeddings[i], embeddings[a]) / temperature for a in range(n) if a != i}
        positives = [a for a in scores if labels[a] == labels[i]]
        if not positives:
            continue
        log_p = [scores[p] - log_sum_exp(list(scores.values())) for p in positives]
        if form == "out":
            values[i] = -math.fsum(log_p) / len(positives)
        else:
            values[i] = -log_sum_exp(log_p) + math.log(len(positives))
        values[i] *= 1 if base_temperature is None else temperature / base_temperature
    return values
