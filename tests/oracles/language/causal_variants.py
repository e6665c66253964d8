"""Oracles of `lossfns.language.causal_variants`."""

import math

import numpy as np

from tests.oracles._shared import log_sum_exp, negative_log_probability


def prefix_lm_where(tokens, prefix_lengths, segment_ids=None):
    scored = np.zeros(tokens.shape)
    for row, i in np.ndindex(tokens.shape):
        joined = segment_ids is None or segment_ids[row, i] == segment_ids[row, i - 1]
        scored[row, i] = i > 0 and i >= prefix_lengths[row] and joined
    return scored


def prefix_lm(logits, tokens, prefix_lengths):
    values = np.zeros(tokens.shape)
    scored = prefix_lm_where(tokens, prefix_lengths)
    for row, i in np.ndindex(tokens.shape):
        if not 0 <= prefix_lengths[row] <= tokens.shape[1]:
            values[row, i] = np.nan
        elif scored[row, i]:
            values[row, i] = negative_log_probability(logits[row, i - 1].tolist(), int(tokens[row, i]))
    return values


def multi_token_where(tokens, segment_ids=None, *, heads):
    scored = np.zeros((len(tokens), heads, tokens.shape[1]))
    for row, h, i in np.ndindex(scored.shape):
        source = i - 1 - h
        joined = segment_ids is None or len(set(segment_ids[row, max(source, 0) : i + 1])) == 1
        scored[row, h, i] = source >= 0 and joined
    return scored


def multi_token_prediction(logits, tokens, segment_ids=None):
    scored = multi_token_where(tokens, segment_ids, heads=logits.shape[1])
    values = np.zeros(scored.shape)
    for row, h, i in np.argwhere(scored):
        values[row, h, i] = negative_log_probability(logits[row, h, i - 1 - h].tolist(), int(tokens[row, i]))
    return values


def frequency_weighted(logits, labels, counts, *, power=0.5, smoothing=1.0):
    raw = [(c + smoothing) ** -power for c in counts]
    mean = math.fsum(w * c for w, c in zip(raw, counts, strict=True)) / math.fsum(counts)
    rows = zip(logits, labels, strict=True)
    return np.array([raw[k] / mean * negative_log_probability(row.tolist(), int(k)) for row, k in rows])


def previous_tokens(tokens, *, vocab_size):
    seen = np.zeros((*tokens.shape, vocab_size))
    for row, i in np.ndindex(tokens.shape):
        for token in set(tokens[row, :i].tolist()) - {int(tokens[row, i])}:
            if 0 <= token < vocab_size:
                seen[row, i, token] = 1
    return seen


def unlikelihood(logits, labels, negatives, *, alpha=1.0):
    """1 - p is the share of the other classes."""
    values = np.zeros(len(logits))
    for b, row in enumerate(logits.tolist()):
        values[b] = negative_log_probability(row, int(labels[b]))
        for c in np.flatnonzero(negatives[b]):
            if c != labels[b] and alpha:
                others = log_sum_exp(row[:c] + row[c + 1 :])
                values[b] += alpha * (log_sum_exp(row) - others if others > -math.inf else math.inf)
    return values
