"""Rows of the language-modelling losses."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import classification
from tests.oracles import language as oracles
from tests.rows import zeros
from tests.rows.classification import CLASSES, hostile_logits, naive_cross_entropy


def token_rows(rng, rows):
    return rng.normal(size=(rows, 4, CLASSES)) * 2, rng.integers(0, CLASSES, (rows, 4)).astype(np.int32)


WRONG_TOKENS = (
    BadCall((zeros(2, 3, 4), zeros(2, 4, dtype=np.int32)), ("(2, 3)", "(2, 4)")),
    BadCall((zeros(2, 3, 4, dtype=np.int32), zeros(2, 3, dtype=np.int32)), ("logits", "floating", "int32")),
)
MASKED_LM = LossCase(
    lossfns.masked_lm,
    token_rows,
    classification.softmax_cross_entropy,
    naive_cross_entropy,
    labels=1,
    element_masks=True,
    hostile=hostile_logits,
    bad_calls=WRONG_TOKENS,
)


def answered_pairs(rng, rows):
    return rng.normal(size=(rows, 2)) * 2, rng.integers(0, 2, rows).astype(np.int32)


def hostile_pairs(rng):
    logits, answers = answered_pairs(rng, 4)
    return {
        "logits + 1e4": ((logits + 1e4, answers), {}),
        "logits of +-1e4": ((np.array([[1e4, -1e4], [1e4, 1e4]]), np.array([0, 1])), {}),
        "booleans": ((logits, np.array([True, False, False, True])), {}),
    }


def pair_case(loss, name):
    return LossCase(
        loss,
        answered_pairs,
        oracles.first_of_two,
        lambda logits, answers: naive_cross_entropy(logits, 1 - answers),
        labels=1,
        hostile=hostile_pairs,
        bad_calls=(
            BadCall((zeros(3, 2), zeros(4, dtype=np.int32)), (name, "(3,)", "(4,)")),
            BadCall((zeros(3, 3), zeros(3, dtype=np.int32)), ("2 classes", "(3, 3)")),
            BadCall((zeros(3, 2, dtype=np.int32), zeros(3, dtype=np.int32)), ("logits", "floating", "int32")),
        ),
    )


def naive_next_token(logits, tokens):
    values = naive_cross_entropy(logits[:, :-1], tokens[:, 1:])
    return jnp.concatenate([jnp.zeros_like(values[:, :1]), values], 1)


def hostile_tokens(rng):
    logits, tokens = token_rows(rng, 2)
    return {
        "logits + 1e4": ((logits + 1e4, tokens), {}),
        "one position": ((logits[:, :1], tokens[:, :1]), {}),
        "no position": ((logits[:, :0], tokens[:, :0]), {}),
    }


NEXT_TOKEN = LossCase(
    lossfns.next_token,
    token_rows,
    oracles.next_token,
    naive_next_token,
    labels=1,
    hostile=hostile_tokens,
    bad_calls=(*WRONG_TOKENS, BadCall((zeros(4), zeros(dtype=np.int32)), ("two last axes", "(4,)"))),
)


def segments(rng, rows):
    return np.sort(rng.integers(0, 3, (rows, 4)), axis=1).astype(np.int32)


def packed_next_token(logits, tokens, segment_ids, *, where=None):
    return lossfns.next_token(logits, tokens, where=where, segment_ids=segment_ids)


packed_next_token.term_weights = lambda logits, tokens, segment_ids, *, where=None: lossfns.next_token.term_weights(
    logits, tokens, where=where, segment_ids=segment_ids
)
PACKED_NEXT_TOKEN = LossCase(
    packed_next_token, lambda rng, rows: (*token_rows(rng, rows), segments(rng, rows)), oracles.next_token
)


MASK_OUT = {
    "low precision": "it returns a mask, whose dtype is boolean",
    "result dtype": "it returns a mask, whose dtype is boolean",
    "the mask given once": "it returns a mask, which is no loss",
}


def scored_tokens(tokens, segment_ids, *, where=None):
    return lossfns.next_token_where(tokens, where=where, segment_ids=segment_ids).astype(jnp.float32)


NEXT_TOKEN_WHERE = LossCase(
    scored_tokens,
    lambda rng, rows: (token_rows(rng, rows)[1], segments(rng, rows)),
    oracles.next_token_where,
    hostile=lambda rng: {"one position": ((zeros(2, 1, dtype=np.int32), zeros(2, 1, dtype=np.int32)), {})},
    bad_calls=(BadCall((zeros(dtype=np.int32), zeros(dtype=np.int32)), ("tokens", "scalar")),),
    skip=MASK_OUT,
)


def masked_tokens(tokens, *, rate=0.15, **options):
    """The model's input and the chosen positions, as one array."""
    options = {"mask_id": 3, "vocab_size": 20, "special": (0, 1, 2)} | options
    out = lossfns.apply_mlm_mask(jax.random.key(0), tokens, rate=rate, **options)
    return jnp.stack([out.tokens, out.masked]).astype(jnp.float32)


def words(rng, rows):
    return (rng.integers(0, 20, (rows, 8)).astype(np.int32),)


RANDOM = "its random draws belong to places in the batch, not to rows"
SENTENCE = zeros(2, 4, dtype=np.int32)
APPLY_MLM_MASK = LossCase(
    masked_tokens,
    words,
    name="apply_mlm_mask",
    batched=False,
    variants=({}, {"word_ids": np.repeat(np.arange(24), 2).reshape(6, 8)}),
    sweep={"rate": (0.1, 0.2, 0.3)},
    hostile=lambda rng: {
        "specials only": ((zeros(2, 4, dtype=np.int32),), {}),
        "no row": ((zeros(0, 4, dtype=np.int32),), {}),
        "one position": ((zeros(2, 1, dtype=np.int32) + 7,), {}),
    },
    bad_calls=(
        BadCall((zeros(2, 4),), ("tokens", "integer", "float32")),
        BadCall((SENTENCE,), ("where", "(2, 4)", "(2, 3)"), {"where": np.ones((2, 3), bool)}),
        BadCall((SENTENCE,), ("word_ids", "(2, 4)", "(4,)"), {"word_ids": np.zeros(4, np.int32)}),
        BadCall((SENTENCE,), ("rate", "1.5"), {"rate": 1.5}),
        BadCall((SENTENCE,), ("mask_id", "20"), {"mask_id": 20}),
        BadCall((SENTENCE,), ("sum to at most 1",), {"mask_share": 0.8, "random_share": 0.3}),
    ),
    skip={
        "hyper-parameters": "tokens in, tokens out",
        "oracle": "its results are random; tests/lossfns/test_language.py counts them",
        "low precision": "tokens in, tokens out",
        "result dtype": "tokens in, tokens out",
        "masked = deleted": RANDOM,
        "all masked = 0": "with nothing to choose from the tokens stay; tests/lossfns/test_language.py",
        "micro-batches = whole": RANDOM,
        "permutation": RANDOM,
        "devices = one device": RANDOM,
    },
)


ROWS = {
    "apply_mlm_mask": APPLY_MLM_MASK,
    "masked_lm": MASKED_LM,
    "next_sentence": pair_case(lossfns.next_sentence, "is_next"),
    "next_token": NEXT_TOKEN,
    "next_token of packed segments": PACKED_NEXT_TOKEN,
    "next_token_where": NEXT_TOKEN_WHERE,
    "sentence_order": pair_case(lossfns.sentence_order, "in_order"),
}
