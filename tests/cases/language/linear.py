"""Cases of `lossfns.language.linear`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import FEATURES, GONE, HEAD, NO_FORWARD_MODE, VOCABULARY, logits_of, zeros
from tests.cases.language._shared import LABELS
from tests.oracles.language import linear as oracles


def linear_cross_entropy(hidden, labels, *, head=HEAD, **options):
    return lossfns.linear_cross_entropy(hidden, jnp.asarray(head).astype(hidden.dtype), labels, **options)


def linear_log_probs(hidden, labels, *, head=HEAD, **options):
    return lossfns.linear_log_probs(hidden, jnp.asarray(head).astype(hidden.dtype), labels, **options)


def linear_sequence_log_probs(hidden, tokens, answer, *, where=None, head=HEAD, **options):
    """Rows are deleted by masking all of their tokens."""
    answer = answer if where is None else answer & where[:, None]
    head = jnp.asarray(head).astype(hidden.dtype)
    return lossfns.linear_sequence_log_probs(hidden, head, tokens, where=answer, **options)


def with_head(oracle):
    return lambda *args, head=HEAD, **options: oracle(*args, head=head, **options)


def states(rng, rows):
    return 2 * rng.normal(size=(rows, FEATURES)), rng.integers(0, VOCABULARY, rows).astype(np.int32)


def naive(hidden, labels):
    return -jnp.take_along_axis(jnp.log(jax.nn.softmax(logits_of(hidden), -1)), labels[:, None], -1)[:, 0]


def plain(hidden, labels, **options):
    return lossfns.softmax_cross_entropy(logits_of(jnp.asarray(hidden)), jnp.asarray(labels), **options)


WRONG_STATES = (
    BadCall((zeros(3, 4), zeros(4, dtype=np.int32)), ("labels", "(3,)", "(4,)", "(3, 4)")),
    BadCall((zeros(3, 5), LABELS), ("hidden", "4 features", "(3, 5)")),
    BadCall((zeros(), zeros(dtype=np.int32)), ("hidden", "4 features", "()")),
    BadCall((zeros(3, 4, dtype=np.int32), LABELS), ("hidden", "floating", "int32")),
    BadCall((zeros(3, 4), LABELS), ("head", "rank 2", "rank 1"), {"head": zeros(4)}),
    BadCall((zeros(3, 4), LABELS), ("head", "at least one class", "(0, 4)"), {"head": zeros(0, 4)}),
    BadCall((zeros(3, 4), LABELS), ("bias", "(7,)", "(6,)"), {"bias": zeros(6)}),
    BadCall((zeros(3, 4), LABELS), ("block_size", "at least 1", "0"), {"block_size": 0}),
    BadCall((zeros(3, 4), LABELS), ("soft_cap", "positive", "0"), {"soft_cap": 0}),
    BadCall((zeros(3, 4), LABELS), ("precision", "'highest'", "'float32'"), {"precision": "float32"}),
)


def hostile_states(rng):
    rows = states(rng, 3)[0], np.array([0, 1, 3])
    return {
        "a class that does not exist": (rows, {"bias": GONE, "label_smoothing": 0.1}),
        "the same in blocks": (rows, {"bias": GONE, "block_size": 2, "soft_cap": 2.0}),
        "logits of 1e4": ((1e4 * rows[0], rows[1]), {"block_size": 4}),
    }


OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.01, "soft_cap": 3.0}
CROSS_ENTROPY = LossCase(
    linear_cross_entropy,
    states,
    with_head(oracles.linear_cross_entropy),
    naive,
    name="linear_cross_entropy",
    variants=({}, {"block_size": 3, **OPTIONS}),
    sweep={"label_smoothing": (0.1, 0.2, 0.3), "z_loss": (0.01, 0.02, 0.03), "soft_cap": (3.0, 30.0, 50.0)},
    labels=1,
    num_classes=lambda *args: VOCABULARY,
    hostile=hostile_states,
    bad_calls=(
        *WRONG_STATES,
        BadCall((zeros(3, 4), LABELS), ("return_lse", "True or False", "1"), {"return_lse": 1}),
        BadCall((zeros(3, 4), LABELS), ("label_smoothing", "1.5"), {"label_smoothing": 1.5}),
    ),
    modes=NO_FORWARD_MODE,
    non_negative=True,
    limits={
        "softmax_cross_entropy of the logits": lambda x: (linear_cross_entropy(*map(jnp.asarray, x)), plain(*x)),
        "with options": lambda x: (linear_cross_entropy(*map(jnp.asarray, x), **OPTIONS), plain(*x, **OPTIONS)),
    },
)
LOG_PROBS = LossCase(
    linear_log_probs,
    states,
    with_head(oracles.linear_log_probs),
    lambda hidden, labels: -naive(hidden, labels),
    name="linear_log_probs",
    variants=({}, {"block_size": 3}),
    sweep={"soft_cap": (3.0, 30.0, 50.0)},
    labels=1,
    num_classes=lambda *args: VOCABULARY,
    bad_calls=WRONG_STATES,
    modes=NO_FORWARD_MODE,
)


def sequences(rng, rows):
    tokens = rng.integers(0, VOCABULARY, (rows, 4)).astype(np.int32)
    return rng.normal(size=(rows, 4, FEATURES)) * 2, tokens, np.arange(4) >= rng.integers(1, 4, (rows, 1))


TOKENS, ANSWER = zeros(2, 3, dtype=np.int32), zeros(2, 3, dtype=bool)
SEQUENCE_LOG_PROBS = LossCase(
    linear_sequence_log_probs,
    sequences,
    with_head(oracles.linear_sequence_log_probs),
    name="linear_sequence_log_probs",
    sweep={"soft_cap": (3.0, 30.0, 50.0)},
    variants=({}, {"average": True, "block_size": 3}),
    labels=1,
    num_classes=lambda *args: VOCABULARY,
    modes=NO_FORWARD_MODE,
    limits={
        "sequence_log_probs of the logits": lambda x: (
            linear_sequence_log_probs(*map(jnp.asarray, x)),
            lossfns.sequence_log_probs(logits_of(jnp.asarray(x[0])), jnp.asarray(x[1]), where=jnp.asarray(x[2])),
        ),
    },
    bad_calls=(
        BadCall((zeros(2, 3, 4), zeros(2, 4, dtype=np.int32), zeros(2, 4, dtype=bool)), ("tokens", "(2, 3)", "(2, 4)")),
        BadCall((zeros(4), zeros(dtype=np.int32), zeros(dtype=bool)), ("two last axes", "(4,)")),
        BadCall((zeros(2, 3, 4), TOKENS, zeros(2, 3)), ("where", "boolean", "float32")),
        BadCall((zeros(2, 3, 4), TOKENS, ANSWER), ("average", "1"), {"average": 1}),
        BadCall((zeros(2, 3, 4), TOKENS, ANSWER), ("block_size", "-1"), {"block_size": -1}),
        BadCall((zeros(2, 3, 4), TOKENS, ANSWER), ("precision", "'high'", "None"), {"precision": None}),
    ),
    skip={"labels out of range": "the first token of a row is not predicted; tests/lossfns/test_linear.py"},
)


CASES = {
    "linear_cross_entropy": CROSS_ENTROPY,
    "linear_log_probs": LOG_PROBS,
    "linear_sequence_log_probs": SEQUENCE_LOG_PROBS,
}
