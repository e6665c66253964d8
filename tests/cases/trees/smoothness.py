"""Cases of `lossfns.trees.smoothness`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import INTS, zeros
from tests.oracles.trees import smoothness as oracles


def graphs(rng, rows):
    edges = np.stack([np.arange(1, 4), rng.integers(0, 4, 3)], -1)[None].repeat(rows, 0).astype(np.int32)
    counts = np.array([3, 2, 0, 3, 1, 3])[np.arange(rows) % 6].astype(np.int32)
    return rng.normal(size=(rows, 4, 2)), edges, rng.uniform(0.1, 1, (rows, 3)), counts


def naive_smoothness(hidden, edges, weights, counts):
    rows = jnp.arange(len(hidden))[:, None]
    gaps = hidden[rows, edges[..., 0]] - hidden[rows, edges[..., 1]]
    there = jnp.arange(3)[None] < counts[:, None]
    return (jnp.where(there, weights, 0) * (gaps * gaps).sum(-1)).sum(-1)


def hostile_graphs(rng):
    hidden, edges, weights, counts = graphs(rng, 4)
    wrong = edges.copy()
    wrong[0, 0], wrong[1, 1], wrong[2] = (0, 4), (-1, 0), -1
    return {
        "nodes out of range": ((hidden, wrong, weights, counts), {}),
        "counts out of range": ((hidden, edges, weights, counts + np.int32([1, -3, 0, 0])), {}),
        "edges with holes": ((hidden, wrong, weights, np.arange(12).reshape(4, 3) % 2 == 1), {}),
        "hidden + 1e3": ((np.round(hidden * 64) / 64 + 1e3, edges, weights, counts), {}),
    }


def laplacian(inputs):
    hidden, edges, weights, _ = inputs
    expected = []
    for h, pairs, alpha in zip(hidden, edges, weights, strict=True):
        matrix = np.zeros((4, 4))
        for (i, j), a in zip(pairs, alpha, strict=True):
            matrix[[i, j], [i, j]] += a
            matrix[[i, j], [j, i]] -= a
        expected.append(np.trace(h.T @ matrix @ h))
    return lossfns.tree_smoothness(hidden, edges, weights), np.array(expected)


TREE_SMOOTHNESS = LossCase(
    lossfns.tree_smoothness,
    graphs,
    oracles.tree_smoothness,
    naive_smoothness,
    flat="the weight of an edge from a node to itself",
    hostile=hostile_graphs,
    limits={"the Laplacian's quadratic form": laplacian},
    outside={2: (-0.5,)},
    bad_calls=(
        BadCall((zeros(2, 4, 2), zeros(2, 3, 3, **INTS), zeros(2, 3)), ("edges", "2 nodes", "(2, 3, 3)")),
        BadCall((zeros(2, 4, 2), zeros(2, 3, 2), zeros(2, 3)), ("edges", "integer", "float32")),
        BadCall((zeros(2, 4, 2), zeros(2, 3, 2, **INTS), zeros(2, 4)), ("edge_weights", "(2, 3)", "(2, 4)")),
        BadCall((zeros(4), zeros(3, 2, **INTS), zeros(3)), ("hidden", "(4,)")),
        BadCall((zeros(2, 4, 2), zeros(2, 3, 2, **INTS), zeros(2, 3), zeros(2, 3)), ("edges_where", "float32")),
    ),
)


CASES = {
    "tree_smoothness": TREE_SMOOTHNESS,
}
