"""Cases of `lossfns.language.denoising`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import INTS, hostile_logits, naive_cross_entropy, zeros
from tests.cases.language._shared import SENTENCE, WRONG_TOKENS, token_rows
from tests.oracles.classification import cross_entropy as cross_entropy_oracles
from tests.oracles.language import denoising as oracles


def detected(rng, rows):
    tokens = rng.integers(0, 2, (2, rows, 4)).astype(np.int32)
    return rng.normal(size=(rows, 4)) * 2, tokens[0], tokens[1]


def naive_detection(logits, tokens, original):
    p = jax.nn.sigmoid(logits)
    return -jnp.log(jnp.where(tokens != original, p, 1 - p))


def all_alike(inputs):
    logits, tokens, _ = inputs
    return lossfns.replaced_token_detection(logits, tokens, tokens), jax.nn.softplus(logits)


REPLACED_TOKEN_DETECTION = LossCase(
    lossfns.replaced_token_detection,
    detected,
    oracles.replaced_token_detection,
    naive_detection,
    element_masks=True,
    non_negative=True,
    symmetric=((1, 2),),
    hostile=lambda rng: {
        "logits of +-1e4": ((np.float32([[1e4, -1e4] * 2]), *(x[:1] for x in detected(rng, 1)[1:])), {})
    },
    limits={"nothing replaced": all_alike},
    bad_calls=(
        BadCall((zeros(2, 4), zeros(2, 3, **INTS), SENTENCE), ("tokens", "(2, 4)", "(2, 3)")),
        BadCall((zeros(2, 4), SENTENCE, zeros(2, 4)), ("original", "integer", "float32")),
        BadCall((SENTENCE, SENTENCE, SENTENCE), ("logits", "floating", "int32")),
    ),
)
SPAN_CORRUPTION = LossCase(
    lossfns.span_corruption,
    token_rows,
    cross_entropy_oracles.softmax_cross_entropy,
    naive_cross_entropy,
    variants=({}, {"z_loss": 0.1}),
    sweep={"z_loss": (1e-4, 1e-3, 1e-2)},
    labels=1,
    element_masks=True,
    non_negative=True,
    shift_invariant=(0,),
    hostile=hostile_logits,
    bad_calls=(*WRONG_TOKENS, BadCall((zeros(2, 4), zeros(2, **INTS)), ("z_loss", "-1"), {"z_loss": -1})),
)


def corrupted(tokens, *, rate=0.15, **options):
    """Inputs and targets of texts of three lengths, side by side."""
    options = {"first_sentinel": 99} | options
    lengths = np.array([12, 7, 1], np.int32)[: len(tokens)] if options.pop("lengths", True) else None
    out = lossfns.corrupt_spans(jax.random.key(0), tokens, lengths, rate=rate, **options)
    return jnp.concatenate([*out], axis=-1).astype(jnp.float32)


RANDOM = "its random draws belong to places in the batch, not to rows"
TOKENS_ONLY = "tokens in, tokens out"
CORRUPT_SPANS = LossCase(
    corrupted,
    lambda rng, rows: (rng.integers(0, 20, (3, 12)).astype(np.int32),),
    name="corrupt_spans",
    batched=False,
    variants=({}, {"eos_id": 1, "mean_length": 2.0}),
    hostile=lambda rng: {
        "no row": ((zeros(0, 12, **INTS),), {"lengths": False}),
        "one position": ((zeros(2, 1, **INTS),), {"lengths": False}),
        "all but one": ((zeros(2, 4, **INTS),), {"lengths": False, "rate": 1.0}),
    },
    bad_calls=(
        BadCall((zeros(3, 12),), ("tokens", "integer", "float32")),
        BadCall((zeros(2, 12, **INTS),), ("rate", "1.5"), {"rate": 1.5}),
        BadCall((zeros(2, 12, **INTS),), ("mean_length", "0.5"), {"mean_length": 0.5}),
        BadCall(
            (zeros(2, 90, **INTS),), ("first_sentinel", "at least 4", "2"), {"first_sentinel": 2, "lengths": False}
        ),
        BadCall((zeros(4, 12, **INTS),), ("tokens_where", "(4,)", "(3,)")),
    ),
    skip={
        "oracle": "its results are random; tests/lossfns/test_denoising.py puts the texts together again",
        "low precision": TOKENS_ONLY,
        "result dtype": TOKENS_ONLY,
        "masked = deleted": RANDOM,
        "all masked = 0": RANDOM,
        "micro-batches = whole": RANDOM,
        "permutation": RANDOM,
        "devices = one device": RANDOM,
        "vmap = loop": "the texts' lengths are in the batch",
    },
)


CASES = {
    "corrupt_spans": CORRUPT_SPANS,
    "replaced_token_detection": REPLACED_TOKEN_DETECTION,
    "span_corruption": SPAN_CORRUPTION,
}
