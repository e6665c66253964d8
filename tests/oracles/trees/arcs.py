"""Oracles of `lossfns.trees.arcs`."""

import itertools
import math

import numpy as np

from tests.oracles._shared import cross_entropy_of_row, log_sum_exp, present, rows_of


def arc_cross_entropy(logits, heads, words_where=None, *, exclude_self=False):
    values = np.zeros(heads.shape)
    for b, where in enumerate(rows_of(words_where, len(heads))):
        words = present(heads.shape[1], where)
        for n in range(heads.shape[1]) if words is None else words:
            row = logits[b, n].tolist()
            for k in range(heads.shape[1]):
                if words is None or k not in words or (exclude_self and k == n):
                    row[k + 1] = -math.inf
            inside = words is not None and 0 <= heads[b, n] < len(row)
            values[b, n] = cross_entropy_of_row(row, int(heads[b, n])) if inside else np.nan
    return values


def dependency_trees(words, single_root):
    """Every choice of a head for each word (0 is the root, n + 1 word n) from which all words come to the root."""
    for heads in itertools.product([0, *(n + 1 for n in words)], repeat=len(words)):
        head_of = dict(zip(words, heads, strict=True))
        if single_root and words and heads.count(0) != 1:
            continue
        for word in words:
            above, steps = word + 1, 0
            while above and steps <= len(words):
                above, steps = head_of[above - 1], steps + 1
            if above:
                break
        else:
            yield heads


def dependency_tree_crf(scores, heads, words_where=None, *, single_root=True):
    """Koo 2007, by enumeration in place of the determinant."""
    values = np.zeros(len(scores))
    for b, where in enumerate(rows_of(words_where, len(scores))):
        words = present(heads.shape[1], where)
        if words is None:
            values[b] = np.nan
            continue
        totals = {}
        for tree in dependency_trees(words, single_root):
            parts = [scores[b, n, head] for n, head in zip(words, tree, strict=True)]
            totals[tree] = -math.inf if -math.inf in parts else math.fsum(parts)
        gold = totals.get(tuple(int(heads[b, n]) for n in words), np.nan)
        values[b] = math.inf if gold == -math.inf else log_sum_exp(list(totals.values())) - gold
    return values
