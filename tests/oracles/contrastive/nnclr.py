"""Oracles of `lossfns.contrastive.nnclr`."""

import numpy as np

from tests.oracles._shared import cosine, log_sum_exp


def nnclr(embeddings_a, embeddings_b, predictions_a, predictions_b, queue, *, temperature=0.1, block_size=None):
    """NNCLR, equation 3 both ways."""
    values = np.zeros(len(embeddings_a))
    for embeddings, predictions in ((embeddings_a, predictions_b), (embeddings_b, predictions_a)):
        for i, z in enumerate(embeddings):
            neighbour = queue[max(range(len(queue)), key=lambda k, z=z: cosine(z, queue[k]))]
            scores = [cosine(neighbour, p) / temperature for p in predictions]
            values[i] += (log_sum_exp(scores) - scores[i]) / 2
    return values
