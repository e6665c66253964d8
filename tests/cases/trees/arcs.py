"""Cases of `lossfns.trees.arcs`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import INTS, padded, zeros
from tests.oracles.trees import arcs as oracles

ROOT = np.array([2, 0, 2], np.int32)
CHAIN = np.array([0, 1, 2], np.int32)
FORK = np.array([3, 3, 0], np.int32)


def parsed(rng, rows):
    heads = np.stack([ROOT, CHAIN, FORK, ROOT, CHAIN, FORK])[np.arange(rows) % 6]
    lengths = np.array([3, 3, 3, 2, 1, 3])[np.arange(rows) % 6].astype(np.int32)
    return rng.normal(size=(rows, 3, 4)) * 2, heads, lengths


def hostile_arcs(rng):
    scores, heads, lengths = parsed(rng, 6)
    masked = scores.copy()
    masked[0, 0, 3] = masked[1, :, 1] = masked[2, 2, 0] = masked[3] = -np.inf
    holes = np.array([[1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]], bool)
    wrong = np.array([[1, 0, 2], [2, 1, 0], [0, 0, 1], [4, 0, 2], [-1, 0, 2], [2, 3, 1]], np.int32)
    return {
        "-inf scores": ((masked, heads, lengths), {}),
        "words with holes": ((scores, heads, holes), {}),
        "heads that make no tree": ((scores, wrong, np.full(6, 3, np.int32)), {}),
        "lengths out of range": ((scores, heads, lengths - 1 + 2 * (lengths == 3)), {}),
        "scores over 2e4": ((1e4 * scores, heads, lengths), {}),
        "one word": ((scores[:, :1, :2], 0 * heads[:, :1], 0 * lengths + 1), {}),
    }


def hostile_trees(rng):
    scores, heads, lengths = parsed(rng, 6)
    # Word 0 has no other head than the root, so the first elimination finds no word above it.
    only_root = scores.copy()
    only_root[:, 0, 1:] = only_root[:, 2, 0] = -np.inf
    crossed = only_root.copy()
    crossed[:, 1, 1:] = -np.inf
    full = np.full(6, 3, np.int32)
    return hostile_arcs(rng) | {
        "one word under the root alone": ((only_root, np.tile(CHAIN, (6, 1)), full), {}),
        "two words under the root alone": ((crossed, np.tile(CHAIN, (6, 1)), full), {}),
        "several roots": ((scores, heads, lengths), {"single_root": False}),
        "two words under the root alone, several roots": (
            (crossed, np.tile(np.int32([0, 0, 1]), (6, 1)), full),
            {"single_root": False},
        ),
    }


def arc_shares(inputs):
    """The gradient plus one at the heads is each arc's share of the trees: one for each word, and one root."""
    scores, heads, lengths = inputs
    slope = jax.grad(lambda x: lossfns.dependency_tree_crf(x, heads, lengths).sum())(jnp.asarray(scores))
    there = np.arange(3) < lengths[:, None]
    shares = slope + np.eye(4)[heads] * there[..., None]
    sums = jnp.concatenate([shares.sum(-1), shares[..., 0].sum(-1, keepdims=True)], -1)
    return sums, np.concatenate([there, there[:, :1]], -1).astype(float)


def more_words(inputs):
    scores, heads, lengths = inputs
    more = padded(padded(scores, 1, np.nan), 2, np.inf), padded(heads, 1, -100), lengths
    return lossfns.dependency_tree_crf(*more), lossfns.dependency_tree_crf(*inputs)


WRONG_ARCS = (
    BadCall((zeros(2, 3, 3), zeros(2, 3, **INTS)), ("words + 1", "(2, 3, 3)")),
    BadCall((zeros(3), zeros(3, **INTS)), ("words + 1", "(3,)")),
    BadCall((zeros(2, 3, 4), zeros(2, 4, **INTS)), ("heads", "(2, 3)", "(2, 4)")),
    BadCall((zeros(2, 3, 4, **INTS), zeros(2, 3, **INTS)), ("floating", "int32")),
    BadCall((zeros(2, 3, 4), zeros(2, 3, **INTS), zeros(2, 3)), ("words_where", "integer", "float32")),
)
DEPENDENCY_TREE_CRF = LossCase(
    lossfns.dependency_tree_crf,
    parsed,
    oracles.dependency_tree_crf,
    labels=1,
    hostile=hostile_trees,
    shift_invariant=(0,),
    non_negative=True,
    enumerated=True,
    limits={"marginals of the arcs sum to one": arc_shares, "padding is deleted": more_words},
    bad_calls=(
        *WRONG_ARCS,
        BadCall((zeros(2, 3, 4), zeros(2, 3, **INTS)), ("single_root", "1"), {"single_root": 1}),
    ),
)


def naive_arcs(logits, heads, lengths):
    there = jnp.arange(3)[None] < lengths[:, None]
    as_heads = jnp.concatenate([jnp.ones_like(there[:, :1]), there], 1)[:, None]
    p = jnp.exp(logits) * as_heads
    p = jnp.take_along_axis(p, heads[..., None], -1)[..., 0] / p.sum(-1)
    return jnp.where(there, -jnp.log(jnp.where(there, p, 1)), 0)


ARC_CROSS_ENTROPY = LossCase(
    lossfns.arc_cross_entropy,
    lambda rng, rows: (*parsed(rng, rows)[:2], np.full(rows, 3, np.int32)),
    oracles.arc_cross_entropy,
    naive_arcs,
    variants=({}, {"exclude_self": True}),
    labels=1,
    element_masks=True,
    hostile=hostile_arcs,
    shift_invariant=(0,),
    non_negative=True,
    bad_calls=(
        *WRONG_ARCS,
        BadCall((zeros(2, 3, 4), zeros(2, 3, **INTS)), ("exclude_self", "None"), {"exclude_self": None}),
    ),
)


CASES = {
    "arc_cross_entropy": ARC_CROSS_ENTROPY,
    "dependency_tree_crf": DEPENDENCY_TREE_CRF,
}
