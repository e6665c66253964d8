"""Cases of `lossfns.language.causal_variants`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import CLASSES, INTS, labelled_rows, naive_cross_entropy, zeros
from tests.cases.language._shared import MASK_OUT, SENTENCE, WRONG_TOKENS, naive_next_token, segments, token_rows
from tests.oracles.language import causal_variants as oracles


def prefixed(rng, rows):
    logits, tokens = token_rows(rng, rows)
    return logits, tokens, np.array([2, 0, 4, 1])[np.arange(rows) % 4].astype(np.int32)


def naive_prefix(logits, tokens, prefix):
    return jnp.where(jnp.arange(4)[None] >= prefix[:, None], naive_next_token(logits, tokens), 0)


def no_prefix(inputs):
    logits, tokens, prefix = inputs
    return lossfns.prefix_lm(logits, tokens, 0 * prefix), lossfns.next_token(logits, tokens)


def hostile_prefixes(rng):
    logits, tokens, prefix = prefixed(rng, 4)
    return {
        "logits + 1e4": ((logits + 1e4, tokens, prefix), {}),
        "lengths out of range": ((logits, tokens, prefix + np.int32([3, -1, 0, -1])), {}),
    }


PREFIX_LM = LossCase(
    lossfns.prefix_lm,
    prefixed,
    oracles.prefix_lm,
    naive_prefix,
    labels=1,
    non_negative=True,
    shift_invariant=(0,),
    hostile=hostile_prefixes,
    limits={"no prefix is next_token": no_prefix},
    bad_calls=(
        *(BadCall((*call.args, zeros(2, **INTS)), call.words) for call in WRONG_TOKENS),
        BadCall((zeros(2, 4, 3), SENTENCE, SENTENCE), ("prefix_lengths", "(2,)", "(2, 4)")),
    ),
)


def scored_after_prefix(tokens, prefix, segment_ids, *, where=None):
    return lossfns.prefix_lm_where(tokens, prefix, where=where, segment_ids=segment_ids).astype(jnp.float32)


PREFIX_LM_WHERE = LossCase(
    scored_after_prefix,
    lambda rng, rows: (*prefixed(rng, rows)[1:], segments(rng, rows)),
    oracles.prefix_lm_where,
    name="prefix_lm_where",
    bad_calls=(BadCall((SENTENCE, SENTENCE, SENTENCE), ("prefix_lengths", "(2,)", "(2, 4)")),),
    skip=MASK_OUT,
)


def headed(rng, rows):
    documents = segments(rng, rows)
    documents[:1] = 0  # so that the last token of the first row is predicted
    return rng.normal(size=(rows, 2, 4, CLASSES)) * 2, token_rows(rng, rows)[1], documents


def packed_heads(logits, tokens, segment_ids, *, where=None):
    return lossfns.multi_token_prediction(logits, tokens, where=where, segment_ids=segment_ids)


packed_heads.term_weights = lambda logits, tokens, segment_ids, *, where=None: (
    lossfns.multi_token_prediction.term_weights(logits, tokens, where=where, segment_ids=segment_ids)
)


def one_head(inputs):
    logits, tokens, _ = inputs
    first = lossfns.multi_token_prediction(logits[:, :1], tokens)
    return first[:, 0], lossfns.next_token(logits[:, 0], tokens)


MULTI_TOKEN_PREDICTION = LossCase(
    packed_heads,
    headed,
    oracles.multi_token_prediction,
    name="multi_token_prediction",
    labels=1,
    non_negative=True,
    shift_invariant=(0,),
    hostile=lambda rng: {"logits + 1e4": ((headed(rng, 2)[0] + 1e4, *headed(rng, 2)[1:]), {})},
    limits={"one head is next_token": one_head},
    bad_calls=(
        BadCall((zeros(2, 2, 4, 3), zeros(2, 3, **INTS), SENTENCE), ("tokens", "(2, 4)", "(2, 3)")),
        BadCall((zeros(4, 3), zeros(4, **INTS), zeros(4, **INTS)), ("logits", "three last axes", "(4, 3)")),
        BadCall((zeros(2, 2, 4, 3, **INTS), SENTENCE, SENTENCE), ("logits", "floating", "int32")),
        BadCall((zeros(2, 2, 4, 3), SENTENCE, zeros(2, 3, **INTS)), ("segment_ids", "(2, 4)", "(2, 3)")),
    ),
)


def scored_by_heads(tokens, segment_ids, *, where=None):
    """The mask of the tokens is the mask of the rows here."""
    where = None if where is None else where[:, 0]
    scored = lossfns.multi_token_where(tokens, heads=2, where=where, segment_ids=segment_ids)
    return scored.astype(jnp.float32)


MULTI_TOKEN_WHERE = LossCase(
    scored_by_heads,
    lambda rng, rows: headed(rng, rows)[1:],
    lambda tokens, segment_ids: oracles.multi_token_where(tokens, segment_ids, heads=2),
    name="multi_token_where",
    skip=MASK_OUT | {"errors name both sides": "its where is over tokens; multi_token_prediction checks the same"},
)
COUNTS = np.array([50, 3, 0, 10, 1])


def weighted(logits, labels, *, power=0.5, smoothing=1.0, where=None, counts=COUNTS):
    return lossfns.frequency_weighted(
        logits, labels, jnp.asarray(counts), power=power, smoothing=smoothing, where=where
    )


def weighted_oracle(logits, labels, power=0.5, smoothing=1.0, counts=COUNTS):
    return oracles.frequency_weighted(logits, labels, counts, power=power, smoothing=smoothing)


def corpus_mean(inputs):
    """Over the corpus that was counted the weights have mean one."""
    labels = np.repeat(np.arange(CLASSES), COUNTS).astype(np.int32)
    values = weighted(np.zeros((len(labels), CLASSES), np.float32), labels)
    return values.mean(), np.log(CLASSES)


def no_power(inputs):
    return weighted(*inputs, power=0.0), lossfns.softmax_cross_entropy(*inputs)


def hostile_counts(rng):
    logits, labels = labelled_rows(rng, 4)
    return {
        "logits + 1e4": ((logits + 1e4, labels), {}),
        "counts of 1e9": ((logits, labels), {"counts": COUNTS * 1e9}),
        "power 1": ((logits, labels), {"power": 1.0, "smoothing": 1e-3}),
    }


PLAIN = zeros(2, CLASSES), zeros(2, **INTS)
FREQUENCY_WEIGHTED = LossCase(
    weighted,
    labelled_rows,
    weighted_oracle,
    name="frequency_weighted",
    sweep={"power": (0.1, 0.5, 1.0), "smoothing": (0.5, 1.0, 2.0)},
    labels=1,
    non_negative=True,
    shift_invariant=(0,),
    hostile=hostile_counts,
    limits={"mean weight of the corpus": corpus_mean, "power 0 is the cross-entropy": no_power},
    bad_calls=(
        BadCall(PLAIN, ("counts", "(5,)", "(4,)"), {"counts": zeros(4)}),
        BadCall(PLAIN, ("power", "-1"), {"power": -1}),
        BadCall(PLAIN, ("smoothing", "0"), {"smoothing": 0}),
        BadCall((zeros(2, CLASSES, **INTS), PLAIN[1]), ("logits", "floating", "int32")),
    ),
)


def avoided(tokens, *, where=None):
    seen = lossfns.previous_tokens(tokens, vocab_size=4).astype(jnp.float32)
    return seen if where is None else jnp.where(where, seen, 0)


PREVIOUS_TOKENS = LossCase(
    avoided,
    lambda rng, rows: (rng.integers(0, 5, (rows, 5)).astype(np.int32),),
    lambda tokens: oracles.previous_tokens(tokens, vocab_size=4),
    name="previous_tokens",
    hostile=lambda rng: {
        "tokens out of range": ((np.int32([[-1, 9, -1, 2], [3, 2**30, 3, 0]]),), {}),
        "no position": ((zeros(2, 0, **INTS),), {}),
    },
    bad_calls=(
        BadCall((zeros(2, 4),), ("tokens", "integer", "float32")),
        BadCall((zeros(**INTS),), ("tokens", "scalar")),
    ),
    skip=MASK_OUT | {"errors name both sides": "it has no where: a set for each position"},
)


def repeated(rng, rows):
    return *labelled_rows(rng, rows), rng.random((rows, CLASSES)) < 0.5


def naive_unlikelihood(logits, labels, negatives):
    p = jax.nn.softmax(logits)
    avoid = negatives & (jnp.arange(logits.shape[-1])[None] != labels[:, None])
    return naive_cross_entropy(logits, labels) - jnp.log(jnp.where(avoid, 1 - p, 1)).sum(-1)


def hostile_candidates(rng):
    logits, labels, negatives = repeated(rng, 4)
    sure = np.zeros((4, CLASSES))
    sure[np.arange(4), (labels + 1) % CLASSES] = [20, 100, 1e4, 10]
    alone = np.where(sure > 0, sure, -np.inf)
    return {
        "logits + 1e4": ((logits + 1e4, labels, negatives), {}),
        "sure of a candidate": ((sure, labels, np.ones((4, CLASSES), bool)), {}),
        "a candidate has everything": ((alone, labels, np.ones((4, CLASSES), bool)), {}),
        "masked candidates": ((np.where(negatives, -np.inf, logits), labels, negatives), {}),
        "two equal logits": ((np.tile(np.float32([9, 9, 0, 0, 0]), (4, 1)), labels, np.ones((4, CLASSES), bool)), {}),
    }


def no_candidate(inputs):
    logits, labels, negatives = inputs
    return lossfns.unlikelihood(logits, labels, negatives & False), lossfns.softmax_cross_entropy(logits, labels)


WORDS = zeros(2, CLASSES, dtype=bool)
UNLIKELIHOOD = LossCase(
    lossfns.unlikelihood,
    repeated,
    oracles.unlikelihood,
    naive_unlikelihood,
    sweep={"alpha": (0.5, 1.0, 2.0)},
    labels=1,
    non_negative=True,
    shift_invariant=(0,),
    hostile=hostile_candidates,
    limits={"no candidate": no_candidate},
    bad_calls=(
        BadCall((*PLAIN, zeros(2, 4, dtype=bool)), ("negatives", "(2, 5)", "(2, 4)")),
        BadCall((*PLAIN, zeros(2, CLASSES, **INTS)), ("negatives", "boolean", "int32")),
        BadCall((*PLAIN, WORDS), ("alpha", "-1"), {"alpha": -1}),
        BadCall((zeros(2, CLASSES, **INTS), PLAIN[1], WORDS), ("logits", "floating", "int32")),
    ),
)


CASES = {
    "frequency_weighted": FREQUENCY_WEIGHTED,
    "multi_token_prediction": MULTI_TOKEN_PREDICTION,
    "multi_token_where": MULTI_TOKEN_WHERE,
    "prefix_lm": PREFIX_LM,
    "prefix_lm_where": PREFIX_LM_WHERE,
    "previous_tokens": PREVIOUS_TOKENS,
    "unlikelihood": UNLIKELIHOOD,
}
