"""Oracles of `lossfns.sequence.transducer`."""

import itertools
import math

import numpy as np

from tests.oracles._shared import is_hole, log_sum_exp, negative_log_probability, present, rows_of


def rnn_transducer(logits, labels, frames_where=None, labels_where=None, *, blank_id=0):
    """Graves 2012: every order of len(text) labels among the blanks, the last of which comes last."""
    values = np.zeros(len(logits))
    frames_of, labels_of = rows_of(frames_where, len(logits)), rows_of(labels_where, len(logits))
    for b in range(len(logits)):
        frames, places = present(logits.shape[1], frames_of[b]), present(labels.shape[1], labels_of[b])
        if frames is None or places is None or is_hole(places):
            values[b] = np.nan
            continue
        text = [int(labels[b, u]) for u in places]
        if any(k < 0 or k >= logits.shape[3] or k == blank_id for k in text):
            values[b] = np.nan
            continue
        moves = len(frames) + len(text)
        scores = []
        for label_moves in itertools.combinations(range(max(moves - 1, 0)), len(text)):
            t, u, parts = 0, 0, []
            for move in range(moves):
                is_label = move in label_moves
                row = logits[b, frames[t], u].tolist()
                parts.append(negative_log_probability(row, text[u] if is_label else blank_id))
                t, u = (t, u + 1) if is_label else (t + 1, u)
            scores.append(-math.fsum(parts) if math.inf not in parts else -math.inf)
        values[b] = -log_sum_exp(scores) + 0.0
        if not frames:
            values[b] = 0.0 if not text else math.inf
    return values
