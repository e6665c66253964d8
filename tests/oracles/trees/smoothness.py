"""Oracles of `lossfns.trees.smoothness`."""

import math

import numpy as np

from tests.oracles._shared import present, rows_of


def tree_smoothness(hidden, edges, edge_weights, edges_where=None):
    values = np.zeros(len(hidden))
    for b, where in enumerate(rows_of(edges_where, len(hidden))):
        there = present(edges.shape[1], where)
        if there is None or any(not 0 <= node < hidden.shape[1] for e in there for node in edges[b, e]):
            values[b] = np.nan
            continue
        for e in there:
            i, j = edges[b, e]
            values[b] += edge_weights[b, e] * math.fsum((hidden[b, i] - hidden[b, j]) ** 2)
    return values
