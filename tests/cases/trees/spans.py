"""Cases of `lossfns.trees.spans`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import INTS, padded, zeros
from tests.oracles.trees import spans as oracles

BRACKETS = (
    ((0, 3), (0, 1), (2, 3)),
    ((0, 3), (0, 2), (1, 2)),
    ((0, 3), (1, 3), (2, 3)),
    ((0, 2), (0, 1)),
    ((0, 1),),
    ((0, 3), (0, 2), (0, 1)),
)


def bracketed(rng, rows):
    spans = np.zeros((rows, 4, 4), bool)
    for b in range(rows):
        for i, j in BRACKETS[b % 6]:
            spans[b, i, j] = True
    lengths = np.array([4, 4, 4, 3, 2, 4])[np.arange(rows) % 6].astype(np.int32)
    return rng.normal(size=(rows, 4, 4)) * 2, spans, lengths


def hostile_spans(rng):
    scores, spans, lengths = bracketed(rng, 6)
    masked = scores.copy()
    masked[0, 0, 2] = masked[1, 1, 2] = masked[3] = -np.inf
    crossing, missing, doubled = spans.copy(), spans.copy(), spans.copy()
    crossing[:, 1, 2] = True
    missing[:, 0, 1] = False
    doubled[:, 2, 0] = True
    return {
        "-inf scores": ((masked, spans, lengths), {}),
        "spans that cross": ((scores, crossing, lengths), {}),
        "spans that are missing": ((scores, missing, lengths), {}),
        "a span below the diagonal": ((scores, doubled, lengths), {}),
        "lengths out of range": ((scores, spans, np.int32([5, -1, 0, 1, 2, 4])), {}),
        "scores of thousands": ((1e4 * np.round(scores), spans, lengths), {}),
        "scores + 1e4": ((scores + 1e4, spans, lengths), {}),
        "one word": ((scores[:, :1, :1], spans[:, :1, :1], 0 * lengths + 1), {}),
    }


def span_shares(inputs):
    """The gradient plus one in the tree is each span's share of the trees: n - 1 in sum, one for the sentence."""
    scores, spans, lengths = inputs
    slope = jax.grad(lambda x: lossfns.span_tree_crf(x, spans, lengths).sum())(jnp.asarray(scores))
    shares = np.asarray(slope + spans)
    whole = shares[np.arange(len(shares)), 0, lengths - 1]
    return np.stack([shares.sum((1, 2)), whole]), np.stack([lengths - 1, np.ones(len(shares))])


def more_span_words(inputs):
    scores, spans, lengths = inputs
    more = padded(padded(scores, 1, np.nan), 2, np.inf), padded(padded(spans, 1, True), 2, True), lengths
    return lossfns.span_tree_crf(*more), lossfns.span_tree_crf(*inputs)


SPAN_TREE_CRF = LossCase(
    lossfns.span_tree_crf,
    bracketed,
    oracles.span_tree_crf,
    hostile=hostile_spans,
    non_negative=True,
    enumerated=True,
    limits={"marginals of the spans": span_shares, "padding is deleted": more_span_words},
    bad_calls=(
        BadCall((zeros(2, 3, 4), zeros(2, 3, 4, dtype=bool)), ("scores", "(2, 3, 4)")),
        BadCall((zeros(2, 3, 3), zeros(2, 3, 4, dtype=bool)), ("spans", "(2, 3, 3)", "(2, 3, 4)")),
        BadCall((zeros(2, 3, 3), zeros(2, 3, 3, **INTS)), ("spans", "boolean", "int32")),
        BadCall((zeros(2, 3, 3, **INTS), zeros(2, 3, 3, dtype=bool)), ("scores", "floating", "int32")),
        BadCall((zeros(2, 3, 3), zeros(2, 3, 3, dtype=bool), zeros(3, **INTS)), ("words_where", "(2,)", "(3,)")),
    ),
)


CASES = {
    "span_tree_crf": SPAN_TREE_CRF,
}
