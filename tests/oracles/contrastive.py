"""Oracles of the contrastive losses."""

import math

import numpy as np

from tests.oracles.common import cosine, log_sum_exp, softplus


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


def info_nce(queries, keys, *, temperature=1.0, similarity="dot", block_size=None):
    """CPC, equation 4: a softmax over the keys of the batch."""
    compare = cosine if similarity == "cosine" else np.dot
    scores = [[compare(q, k) / temperature for k in keys] for q in queries]
    return np.array([log_sum_exp(row) - row[i] for i, row in enumerate(scores)])


def clip(a, b, *, scale=1 / 0.07, max_scale=100.0, ring=False, block_size=None):
    """CLIP, figure 3: cross-entropies along both axes, averaged."""
    scale = min(scale, max_scale)
    scores = [[scale * cosine(x, y) for y in b] for x in a]
    columns = list(zip(*scores, strict=True))
    return np.array([(log_sum_exp(scores[i]) + log_sum_exp(columns[i])) / 2 - scores[i][i] for i in range(len(a))])


def siglip(a, b, *, scale=10.0, bias=-10.0, ring=False, block_size=None):
    """SigLIP, algorithm 1, with the sum over columns kept apart for each row."""
    values = np.zeros(len(a))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            sign = 1 if i == j else -1
            values[i] += softplus(-sign * (scale * cosine(x, y) + bias))
    return values


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
