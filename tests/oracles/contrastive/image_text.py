"""Oracles of `lossfns.contrastive.image_text`."""

import math

import numpy as np

from tests.oracles._shared import cosine, log_sum_exp, negative_log_probability, softplus


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


def coca(a, b, logits, tokens, *, contrastive_weight=1.0, caption_weight=2.0, length_average=False, scale=1 / 0.07):
    """CoCa, equations 2 to 4; tokens of 0 are padding."""
    values = contrastive_weight * clip(a, b, scale=scale)
    for i, row in enumerate(tokens):
        scored = [t for t in range(1, len(row)) if row[t] != 0]
        known = all(0 <= row[t] < logits.shape[-1] for t in scored)
        caption = [negative_log_probability(list(logits[i, t - 1]), row[t]) for t in scored] if known else [math.nan]
        values[i] += caption_weight * math.fsum(caption) / (max(len(scored), 1) if length_average else 1)
    return values


def image_text_matching(logits, matched):
    """ALBEF, equation 4."""
    pairs = zip(logits, matched, strict=True)
    return np.array([negative_log_probability(list(x), int(y)) if y in (0, 1) else np.nan for x, y in pairs])


def hardest_cosines(a, b):
    """The largest cosine of each with the other kind's rows but its partner, both ways summed."""
    count = len(a)
    values = np.zeros(count)
    for i in range(count):
        for x, others in ((a[i], b), (b[i], a)):
            values[i] += max((cosine(x, others[j]) for j in range(count) if j != i), default=0.0)
    return values
