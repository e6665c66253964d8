"""What the cases of several losses share."""

import jax.numpy as jnp
import numpy as np

from lossfns.testing import BadCall
from tests.cases._shared import CLASSES, naive_cross_entropy, zeros


def token_rows(rng, rows):
    return rng.normal(size=(rows, 4, CLASSES)) * 2, rng.integers(0, CLASSES, (rows, 4)).astype(np.int32)


WRONG_TOKENS = (
    BadCall((zeros(2, 3, 4), zeros(2, 4, dtype=np.int32)), ("(2, 3)", "(2, 4)")),
    BadCall((zeros(2, 3, 4, dtype=np.int32), zeros(2, 3, dtype=np.int32)), ("logits", "floating", "int32")),
)


def naive_next_token(logits, tokens):
    values = naive_cross_entropy(logits[:, :-1], tokens[:, 1:])
    return jnp.concatenate([jnp.zeros_like(values[:, :1]), values], 1)


def segments(rng, rows):
    return np.sort(rng.integers(0, 3, (rows, 4)), axis=1).astype(np.int32)


MASK_OUT = {
    "low precision": "it returns a boolean mask",
    "result dtype": "it returns a boolean mask",
    "the mask given once": "it returns a mask, which is not a loss",
}
SENTENCE = zeros(2, 4, dtype=np.int32)

LABELS = zeros(3, dtype=np.int32)
