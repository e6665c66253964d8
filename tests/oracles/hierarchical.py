"""Oracles of `lossfns.hierarchical`."""

import math

import numpy as np

from tests.oracles._shared import log_sum_exp


def pool_spans(hidden, span_ids, *, num_spans, kind="mean"):
    vectors = np.zeros((len(hidden), num_spans, hidden.shape[-1]))
    for b in range(len(hidden)):
        for s in range(num_spans):
            rows = [hidden[b, t] for t in range(hidden.shape[1]) if span_ids[b, t] == s]
            if rows:
                vectors[b, s] = sum(rows) / (len(rows) if kind == "mean" else 1)
        if (span_ids[b] >= num_spans).any():
            vectors[b] = np.nan
    return vectors


def classes_below(node, parents, classes):
    below = []
    for leaf in range(classes):
        above = leaf
        while above not in (-1, node):
            above = parents[above]
        if above == node:
            below.append(leaf)
    return below


def label_tree_cross_entropy(logits, labels, *, parents, alpha=0.5):
    """Bertinetto 2020, from the label up: e^(-alpha depth) times -log p(node | parent)."""
    values = np.zeros(len(logits))
    for b, row in enumerate(logits):
        label = int(labels[b])
        if not 0 <= label < len(row):
            values[b] = np.nan
            continue
        path = [label]
        while parents[path[-1]] != -1:
            path.append(parents[path[-1]])
        mass = [log_sum_exp([row[leaf] for leaf in classes_below(n, parents, len(row))]) for n in path]
        if mass[0] == -math.inf:
            values[b] = math.inf
            continue
        for level in range(len(path) - 1):
            depth = len(path) - 1 - level
            values[b] += math.exp(-alpha * depth) * (mass[level + 1] - mass[level])
    return values
