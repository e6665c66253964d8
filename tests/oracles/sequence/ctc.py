"""Oracles of `lossfns.sequence.ctc`."""

import itertools
import math

import numpy as np

from tests.oracles._shared import is_hole, log_sum_exp, negative_log_probability, present, rows_of


def collapsed(path, blank):
    """Merge repeats, then drop blanks."""
    return [k for k, _ in itertools.groupby(path) if k != blank]


def ctc(logits, labels, logits_where=None, labels_where=None, *, blank_id=0, zero_infinity=False):
    """Graves 2006: -log of the summed probability of all V^T paths that collapse to the labels."""
    values = np.zeros(len(logits))
    frames_of, labels_of = rows_of(logits_where, len(logits)), rows_of(labels_where, len(logits))
    for b in range(len(logits)):
        frames, places = present(logits.shape[1], frames_of[b]), present(labels.shape[1], labels_of[b])
        classes = logits.shape[2]
        if frames is None or places is None or is_hole(places):
            values[b] = np.nan
            continue
        text = [int(labels[b, u]) for u in places]
        if any(k < 0 or k >= classes or k == blank_id for k in text):
            values[b] = np.nan
            continue
        scores = []
        for path in itertools.product(range(classes), repeat=len(frames)):
            if collapsed(path, blank_id) == text:
                parts = [negative_log_probability(logits[b, t].tolist(), k) for t, k in zip(frames, path, strict=True)]
                scores.append(-math.fsum(parts) if math.inf not in parts else -math.inf)
        values[b] = -log_sum_exp(scores) + 0.0
        if zero_infinity and values[b] == math.inf:
            values[b] = 0.0
    return values
