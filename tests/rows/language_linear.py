"""Rows of the losses straight from hidden states.

The head belongs to no row, so it is a constant of these rows; tests/lossfns/test_linear.py differentiates it.
"""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import classification
from tests.oracles import language_linear as oracles
from tests.rows import zeros
from tests.rows.classification import labelled_rows, naive_cross_entropy

CLASSES, FEATURES = 7, 4
# Eighths, which all dtypes hold exactly.
HEAD = np.random.default_rng(0).integers(-8, 9, (CLASSES, FEATURES)).astype(np.float32) / 8
TEACHER_HEAD = np.random.default_rng(1).integers(-8, 9, (CLASSES, 3)).astype(np.float32) / 8
GONE = np.where(np.arange(CLASSES) == 2, -np.inf, 0).astype(np.float32)
NO_FORWARD_MODE = ("rev",)


def linear_cross_entropy(hidden, labels, *, head=HEAD, **options):
    return lossfns.linear_cross_entropy(hidden, jnp.asarray(head).astype(hidden.dtype), labels, **options)


def linear_log_probs(hidden, labels, *, head=HEAD, **options):
    return lossfns.linear_log_probs(hidden, jnp.asarray(head).astype(hidden.dtype), labels, **options)


def linear_sequence_log_probs(hidden, tokens, answer, *, where=None, head=HEAD, **options):
    """Rows are deleted by masking all of their tokens."""
    answer = answer if where is None else answer & where[:, None]
    head = jnp.asarray(head).astype(hidden.dtype)
    return lossfns.linear_sequence_log_probs(hidden, head, tokens, where=answer, **options)


def linear_distillation(student, teacher, *, head=HEAD, teacher_head=TEACHER_HEAD, teacher_bias=None, **options):
    heads = jnp.asarray(head).astype(student.dtype), jnp.asarray(teacher_head).astype(teacher.dtype)
    bias = None if teacher_bias is None else jnp.asarray(teacher_bias).astype(teacher.dtype)
    return lossfns.linear_distillation(student, heads[0], teacher, heads[1], teacher_bias=bias, **options)


def with_head(oracle):
    return lambda *args, head=HEAD, **options: oracle(*args, head=head, **options)


def logits_of(hidden):
    return hidden @ jnp.asarray(HEAD).astype(hidden.dtype).T


def states(rng, rows):
    return 2 * rng.normal(size=(rows, FEATURES)), rng.integers(0, CLASSES, rows).astype(np.int32)


def naive(hidden, labels):
    return -jnp.take_along_axis(jnp.log(jax.nn.softmax(logits_of(hidden), -1)), labels[:, None], -1)[:, 0]


def plain(hidden, labels, **options):
    return lossfns.softmax_cross_entropy(logits_of(jnp.asarray(hidden)), jnp.asarray(labels), **options)


LABELS = zeros(3, dtype=np.int32)
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
    num_classes=lambda *args: CLASSES,
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
    num_classes=lambda *args: CLASSES,
    bad_calls=WRONG_STATES,
    modes=NO_FORWARD_MODE,
)


def sequences(rng, rows):
    tokens = rng.integers(0, CLASSES, (rows, 4)).astype(np.int32)
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
    num_classes=lambda *args: CLASSES,
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
    ),
    skip={"labels out of range": "the first token of a row is not predicted; tests/lossfns/test_linear.py"},
)


def gathered(logits, labels, *, where=None, **options):
    """The loss of gathered rows, put back where they were."""
    marked = jnp.ones(labels.shape, bool) if where is None else where
    out = lossfns.gather_labelled(logits, labels, **({"where": marked, "capacity": max(labels.size, 1)} | options))
    values = lossfns.softmax_cross_entropy(out.hidden, out.labels, where=out.where)
    return jnp.zeros(labels.size + 1).astype(values.dtype).at[out.positions].add(values)[:-1].reshape(labels.shape)


GATHER = LossCase(
    gathered,
    labelled_rows,
    classification.softmax_cross_entropy,
    naive_cross_entropy,
    name="gather_labelled",
    labels=1,
    bad_calls=(
        BadCall((zeros(3, 4), zeros(4, dtype=np.int32)), ("labels", "(3,)", "(4,)")),
        BadCall((zeros(3, 4), LABELS), ("capacity", "at least 1", "0"), {"capacity": 0}),
        BadCall((zeros(3, 4), LABELS), ("on_overflow", "drop", "wrap"), {"on_overflow": "wrap"}),
    ),
)


def two_models(rng, rows):
    return 2 * rng.normal(size=(rows, FEATURES)), 2 * rng.normal(size=(rows, 3))


def naive_distillation(student, teacher):
    p = jax.nn.softmax(teacher @ jnp.asarray(TEACHER_HEAD).astype(teacher.dtype).T, -1)
    return (p * (jnp.log(p) - jnp.log(jax.nn.softmax(logits_of(student), -1)))).sum(-1)


DISTILLATION = LossCase(
    linear_distillation,
    two_models,
    lambda *args, head=HEAD, teacher_head=TEACHER_HEAD, **options: oracles.linear_distillation(
        *args, student_head=head, teacher_head=teacher_head, **options
    ),
    naive_distillation,
    name="linear_distillation",
    variants=({}, {"temperature": 2.0, "block_size": 3}),
    sweep={"temperature": (1.0, 2.0, 4.0)},
    differentiable=(0,),
    modes=NO_FORWARD_MODE,
    hostile=lambda rng: {"a class the teacher lacks": (two_models(rng, 3), {"teacher_bias": GONE, "block_size": 2})},
    limits={
        "knowledge_distillation of the logits": lambda x: (
            linear_distillation(*map(jnp.asarray, x)),
            lossfns.knowledge_distillation(logits_of(jnp.asarray(x[0])), jnp.asarray(x[1]) @ TEACHER_HEAD.T),
        ),
        "KL(p || p) = 0": lambda x: (
            linear_distillation(*map(jnp.asarray, (x[0], x[0])), teacher_head=HEAD),
            zeros(len(x[0])),
        ),
    },
    bad_calls=(
        BadCall((zeros(3, 5), zeros(3, 3)), ("student_hidden", "4 features", "(3, 5)")),
        BadCall((zeros(3, 4), zeros(3, 3)), ("teacher_head", "7 classes", "(6, 3)"), {"teacher_head": zeros(6, 3)}),
        BadCall((zeros(3, 4), zeros(2, 3)), ("teacher_hidden", "(3,)", "(2, 3)")),
        BadCall((zeros(3, 4), zeros(3, 3)), ("temperature", "positive", "0"), {"temperature": 0}),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 3)), ("student_hidden", "floating", "int32")),
    ),
)

ROWS = {
    "gather_labelled": GATHER,
    "linear_cross_entropy": CROSS_ENTROPY,
    "linear_distillation": DISTILLATION,
    "linear_log_probs": LOG_PROBS,
    "linear_sequence_log_probs": SEQUENCE_LOG_PROBS,
}
