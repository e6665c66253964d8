"""Oracles of `lossfns.contrastive.moco`."""

import math

import numpy as np

from tests.oracles._shared import cosine, log_sum_exp
from tests.oracles.contrastive.infonce import info_nce


def moco(queries, keys, queue, *, temperature=0.07, block_size=None):
    """MoCo, equation 1: one positive, and the queue."""
    values = np.zeros(len(queries))
    for i, (q, k) in enumerate(zip(queries, keys, strict=True)):
        scores = [cosine(q, k) / temperature] + [cosine(q, u) / temperature for u in queue]
        values[i] = log_sum_exp(scores) - scores[0]
    return values


def moco_v3(queries_a, queries_b, keys_a, keys_b, *, temperature=0.2, block_size=None):
    """MoCo v3, algorithm 1."""
    ways = ((queries_a, keys_b), (queries_b, keys_a))
    ctr = [info_nce(q, k, temperature=temperature, similarity="cosine") for q, k in ways]
    return 2 * temperature * (ctr[0] + ctr[1])


def enqueue(keys, queue, pointer):
    """MoCo, algorithm 1: unit keys replace the oldest, one by one."""
    queue, place = np.array(queue), int(pointer)
    for key in keys:
        norm = math.sqrt(key @ key)
        queue[place] = key / norm if norm else 0
        place = (place + 1) % len(queue)
    return queue, place
