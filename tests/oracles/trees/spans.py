"""Oracles of `lossfns.trees.spans`."""

import math

import numpy as np

from tests.oracles._shared import is_hole, log_sum_exp, present, rows_of


def bracketings(first, last):
    """Every binary tree over words first .. last, as its spans of two words or more."""
    if first == last:
        yield ()
        return
    for split in range(first, last):
        for left in bracketings(first, split):
            for right in bracketings(split + 1, last):
                yield ((first, last), *left, *right)


def span_tree_crf(scores, spans, words_where=None):
    values = np.zeros(len(scores))
    for b, where in enumerate(rows_of(words_where, len(scores))):
        words = present(scores.shape[1], where)
        if words is None or is_hole(words):
            values[b] = np.nan
            continue
        if not words:
            continue
        totals = {}
        for tree in bracketings(0, len(words) - 1):
            parts = [scores[b, i, j] for i, j in tree]
            totals[frozenset(tree)] = -math.inf if -math.inf in parts else math.fsum(parts)
        chosen = frozenset((i, j) for i in words for j in words if i != j and spans[b, i, j])
        gold = totals.get(chosen, np.nan)
        values[b] = math.inf if gold == -math.inf else log_sum_exp(list(totals.values())) - gold
    return values
