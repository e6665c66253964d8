"""Oracles of `lossfns.language.causal`."""

import numpy as np

from tests.oracles._shared import negative_log_probability


def next_token_where(tokens, segment_ids=None):
    """A token is scored if its row and segment have one before it."""
    scored = np.zeros(tokens.shape)
    for row, position in np.ndindex(tokens.shape):
        joined = segment_ids is None or segment_ids[row, position] == segment_ids[row, position - 1]
        scored[row, position] = position > 0 and joined
    return scored


def next_token(logits, tokens, segment_ids=None):
    """-log p(t_i | t_<i) at i, by the logits of i - 1."""
    scored = next_token_where(tokens, segment_ids)
    values = np.zeros(tokens.shape)
    for row, i in np.argwhere(scored):
        values[row, i] = negative_log_probability(logits[row, i - 1].tolist(), int(tokens[row, i]))
    return values
