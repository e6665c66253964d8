"""Cases of `lossfns.language.causal`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.language._shared import MASK_OUT, WRONG_TOKENS, naive_next_token, segments, token_rows
from tests.oracles.language import causal as oracles


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


def packed_next_token(logits, tokens, segment_ids, *, where=None):
    return lossfns.next_token(logits, tokens, where=where, segment_ids=segment_ids)


packed_next_token.term_weights = lambda logits, tokens, segment_ids, *, where=None: lossfns.next_token.term_weights(
    logits, tokens, where=where, segment_ids=segment_ids
)
PACKED_NEXT_TOKEN = LossCase(
    packed_next_token, lambda rng, rows: (*token_rows(rng, rows), segments(rng, rows)), oracles.next_token
)


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


CASES = {
    "next_token": NEXT_TOKEN,
    "next_token of packed segments": PACKED_NEXT_TOKEN,
    "next_token_where": NEXT_TOKEN_WHERE,
}
