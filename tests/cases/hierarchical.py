"""Cases of `lossfns.hierarchical`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import INTS, naive_cross_entropy, zeros
from tests.oracles import hierarchical as oracles
from tests.oracles.classification import cross_entropy as cross_entropy_oracles


def all_levels(chars, words, char_labels, word_labels, *, where=None):
    """Characters and words side by side: [rows, 4 + 2]."""
    masks = None if where is None else {"char": where[..., :4], "word": where[..., 4:]}
    labels = {"char": char_labels, "word": word_labels}
    values = lossfns.hierarchical_cross_entropy({"char": chars, "word": words}, labels, where=masks)
    return jnp.concatenate([values["char"], values["word"]], axis=-1)


def texts(rng, rows):
    chars, words = rng.normal(size=(rows, 4, 3)) * 2, rng.normal(size=(rows, 2, 5)) * 2
    return chars, words, rng.integers(0, 3, (rows, 4)).astype(np.int32), rng.integers(0, 5, (rows, 2)).astype(np.int32)


def level_oracle(chars, words, char_labels, word_labels):
    parts = (chars, char_labels), (words, word_labels)
    return np.concatenate([cross_entropy_oracles.softmax_cross_entropy(*part) for part in parts], axis=-1)


def bad_levels(*args, **kwargs):
    """The mappings themselves for calls that must fail, the arrays side by side for the others."""
    return lossfns.hierarchical_cross_entropy(*args, **kwargs) if len(args) == 2 else all_levels(*args, **kwargs)


CHARS = {"char": zeros(2, 3), "word": zeros(1, 5)}
HIERARCHICAL = LossCase(
    bad_levels,
    texts,
    level_oracle,
    lambda chars, words, *labels: jnp.concatenate(
        [naive_cross_entropy(x, y) for x, y in zip((chars, words), labels, strict=True)], -1
    ),
    name="hierarchical_cross_entropy",
    labels=2,
    shift_invariant=(0, 1),
    non_negative=True,
    element_masks=True,
    bad_calls=(
        BadCall((CHARS, {"char": zeros(2, **INTS)}), ("levels", "'char', 'word'", "['char']")),
        BadCall((CHARS, {"char": zeros(2, **INTS), "word": zeros(2, **INTS)}), ("'word'", "(1,)", "(2,)")),
        BadCall((CHARS, {"char": zeros(2), "word": zeros(1, **INTS)}), ("'char'", "integer", "float32")),
        BadCall((zeros(2, 3), zeros(2, **INTS)), ("logits", "mapping")),
    ),
)


def pooled(hidden, span_ids, *, kind="mean", where=None):
    """The mask of the positions is the mask of the rows here."""
    mask = None if where is None else jnp.broadcast_to(where[:, :1, 0], span_ids.shape)
    return lossfns.pool_spans(hidden, span_ids, num_spans=3, kind=kind, where=mask).vectors


def positions(rng, rows):
    return rng.normal(size=(rows, 5, 2)), rng.integers(-1, 3, (rows, 5)).astype(np.int32)


def naive_pool(hidden, span_ids):
    member = (span_ids[:, None] == jnp.arange(3)[None, :, None]).astype(hidden.dtype)
    return (member[..., None] * hidden[:, None]).sum(2) / jnp.maximum(member.sum(-1), 1)[..., None]


POOL_SPANS = LossCase(
    pooled,
    positions,
    lambda hidden, span_ids, kind="mean": oracles.pool_spans(hidden, span_ids, num_spans=3, kind=kind),
    naive_pool,
    name="pool_spans",
    variants=({}, {"kind": "sum"}),
    hostile=lambda rng: {
        "span numbers out of range": ((positions(rng, 3)[0], np.int32([[0, 1, 2, 3, 0], [-5] * 5, [9] * 5])), {}),
    },
    bad_calls=(
        BadCall((zeros(2, 5, 2), zeros(2, 4, **INTS)), ("span_ids", "(2, 5)", "(2, 4)")),
        BadCall((zeros(5), zeros(**INTS)), ("hidden", "(5,)")),
        BadCall((zeros(2, 5, 2, **INTS), zeros(2, 5, **INTS)), ("hidden", "floating", "int32")),
        BadCall((zeros(2, 5, 2), zeros(2, 5, **INTS)), ("kind", "'mean', 'sum'", "'max'"), {"kind": "max"}),
    ),
    skip={
        "all masked = 0": "with no position there is no span: tests/lossfns/test_hierarchical.py",
        "errors name both sides": "its where is over positions: tests/lossfns/test_hierarchical.py",
    },
)

# Classes 0 and 1 under node 5, class 2 with 5 under node 6, classes 3 and 4 under the root, 7.
TREE = (5, 5, 6, 7, 7, 6, 7, -1)


def in_tree(logits, labels, *, parents=TREE, alpha=0.5, where=None):
    return lossfns.label_tree_cross_entropy(logits, labels, parents=parents, alpha=alpha, where=where)


def labelled(rng, rows):
    return rng.normal(size=(rows, 5)) * 2, (np.arange(rows) % 5).astype(np.int32)


def hostile_labels(rng):
    logits, labels = labelled(rng, 5)
    masked = logits.copy()
    masked[0, 1] = masked[1, 1] = masked[2, :2] = masked[3, :3] = -np.inf
    return {
        "logits + 1e4": ((logits + 1e4, labels), {}),
        "masked classes": ((masked, labels), {}),
        "a branch far below": ((logits + 100 * np.float32([-1, -1, -1, 0, 0]), labels), {}),
        "a large alpha": ((logits, labels), {"alpha": 30.0}),
    }


def plain_limit(inputs):
    return in_tree(*inputs, alpha=0.0), lossfns.softmax_cross_entropy(*inputs)


def flat_tree(inputs):
    ours = in_tree(*inputs, parents=(5, 5, 5, 5, 5, -1), alpha=1.0)
    return ours, np.exp(-1) * lossfns.softmax_cross_entropy(*inputs)


def label_tree_oracle(logits, labels, alpha=0.5):
    return oracles.label_tree_cross_entropy(logits, labels, parents=TREE, alpha=alpha)


GOOD = (zeros(3, 5), zeros(3, **INTS))
LABEL_TREE = LossCase(
    in_tree,
    labelled,
    label_tree_oracle,
    name="label_tree_cross_entropy",
    labels=1,
    sweep={"alpha": (0.1, 0.2, 0.3)},
    hostile=hostile_labels,
    shift_invariant=(0,),
    non_negative=True,
    limits={"alpha = 0 is the cross-entropy": plain_limit, "a flat tree": flat_tree},
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, **INTS)), ("5 classes", "(3, 4)")),
        BadCall((zeros(3, 5), zeros(4, **INTS)), ("labels", "(3,)", "(4,)")),
        BadCall((zeros(3, 5, **INTS), zeros(3, **INTS)), ("logits", "floating", "int32")),
        BadCall(GOOD, ("alpha", "-1"), {"alpha": -1}),
        BadCall(GOOD, ("cycle",), {"parents": (5, 5, 5, 6, 6, 6, 5, -1)}),
        BadCall(GOOD, ("-1 once", "-1, -1"), {"parents": (5, 5, 5, 5, 5, -1, -1)}),
        BadCall(GOOD, ("below 6", "9"), {"parents": (5, 5, 5, 5, 9, -1)}),
        BadCall(GOOD, ("first",), {"parents": (-1, 0, 0, 0, 0, 0)}),
        BadCall(GOOD, ("integers", "float"), {"parents": np.zeros(3)}),
    ),
)


CASES = {
    "hierarchical_cross_entropy": HIERARCHICAL,
    "label_tree_cross_entropy": LABEL_TREE,
    "pool_spans": POOL_SPANS,
}
