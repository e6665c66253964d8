"""Oracles of `lossfns.preference.log_probs`."""

import math

import numpy as np

from tests.oracles._shared import negative_log_probability


def sequence_log_probs(logits, tokens, where=None, average=False):
    """Sum of log p(t_i | t_<i) over the answer's tokens, by the logits of i - 1."""
    values = np.zeros(tokens.shape[0])
    for row in range(tokens.shape[0]):
        scored = [i for i in range(1, tokens.shape[1]) if where is None or where[row, i]]
        terms = [-negative_log_probability(logits[row, i - 1].tolist(), int(tokens[row, i])) for i in scored]
        total = math.fsum(terms) if all(map(math.isfinite, terms)) else -math.inf
        values[row] = total / max(len(terms), 1) if average else total
    return values
