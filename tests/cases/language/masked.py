"""Cases of `lossfns.language.masked`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import hostile_logits, naive_cross_entropy, zeros
from tests.cases.language._shared import SENTENCE, WRONG_TOKENS, token_rows
from tests.oracles.classification import cross_entropy as cross_entropy_oracles

MASKED_LM = LossCase(
    lossfns.masked_lm,
    token_rows,
    cross_entropy_oracles.softmax_cross_entropy,
    naive_cross_entropy,
    labels=1,
    element_masks=True,
    hostile=hostile_logits,
    bad_calls=WRONG_TOKENS,
)


def masked_tokens(tokens, *, rate=0.15, **options):
    """The model's input and the chosen positions, as one array."""
    options = {"mask_id": 3, "vocab_size": 20, "special": (0, 1, 2)} | options
    out = lossfns.apply_mlm_mask(jax.random.key(0), tokens, rate=rate, **options)
    return jnp.stack([out.tokens, out.masked]).astype(jnp.float32)


def words(rng, rows):
    return (rng.integers(0, 20, (rows, 8)).astype(np.int32),)


RANDOM = "its random draws belong to places in the batch, not to rows"
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


CASES = {
    "apply_mlm_mask": APPLY_MLM_MASK,
    "masked_lm": MASKED_LM,
}
