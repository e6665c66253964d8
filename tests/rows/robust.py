"""Rows of the losses for noisy labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import robust as oracles
from tests.rows import zeros
from tests.rows.classification import CLASSES, hostile_logits, labelled_rows
from tests.rows.classification_focal import SURE, WRONG_LABELS, label_call, probability


def cross_entropy_at(loss, **options):
    """A limit: what the loss is with these options."""
    return lambda inputs: (loss(*inputs, **options), lossfns.softmax_cross_entropy(*inputs))


def labelled_case(loss, oracle, naive, **options):
    options = {"labels": 1, "shift_invariant": (0,), "non_negative": True, "hostile": hostile_logits} | options
    return LossCase(loss, labelled_rows, oracle, naive, **options)


GENERALIZED = labelled_case(
    lossfns.generalized_cross_entropy,
    oracles.generalized_cross_entropy,
    lambda logits, labels: (1 - probability(logits, labels) ** 0.7) / 0.7,
    variants=({}, {"q": 0.3, "truncation": 0.2}),
    flat="a probability below the truncation",
    sweep={"q": (0.3, 0.5, 0.7), "truncation": (0.1, 0.2, 0.3)},
    limits={
        "q 0 is the cross-entropy": cross_entropy_at(lossfns.generalized_cross_entropy, q=0.0),
        "q near 0": cross_entropy_at(lossfns.generalized_cross_entropy, q=1e-9),
        "q 1 is 1 - p": lambda inputs: (
            lossfns.generalized_cross_entropy(*inputs, q=1.0),
            1 - probability(*inputs),
        ),
    },
    bad_calls=(
        *WRONG_LABELS,
        label_call("q", "1.5", q=1.5),
        label_call("truncation", "above 0", "0", truncation=0),
    ),
)


def naive_symmetric(logits, labels):
    p = probability(logits, labels)
    return 4 * (1 - p) - 0.1 * jnp.log(p)


SYMMETRIC = labelled_case(
    lossfns.symmetric_cross_entropy,
    oracles.symmetric_cross_entropy,
    naive_symmetric,
    variants=({}, {"alpha": 6.0, "beta": 0.1, "log_zero": -9.2}),
    sweep={"alpha": (0.1, 0.2, 0.3), "beta": (0.1, 0.2, 0.3), "log_zero": (-4.0, -3.0, -2.0)},
    hostile=lambda rng: (
        hostile_logits(rng)
        | {f"{name}, no active part": (given, {"alpha": 0.0}) for name, (given, _) in hostile_logits(rng).items()}
    ),
    limits={
        "alpha 1 and beta 0 are the cross-entropy": cross_entropy_at(
            lossfns.symmetric_cross_entropy, alpha=1.0, beta=0.0
        )
    },
    bad_calls=(
        *WRONG_LABELS,
        label_call("alpha", "-1", alpha=-1),
        label_call("beta", "-1", beta=-1),
        label_call("log_zero", "negative", "4", log_zero=4),
    ),
)


def naive_active_passive(logits, labels):
    p = probability(logits, labels)
    return jnp.log(p) / jnp.log(jax.nn.softmax(logits, -1)).sum(-1) + 4 * (1 - p)


ACTIVE_PASSIVE = labelled_case(
    lossfns.normalized_active_passive,
    oracles.normalized_active_passive,
    naive_active_passive,
    variants=({}, {"alpha": 10.0, "beta": 0.1, "gamma": 0.5, "log_zero": -2.0}),
    sweep={
        "alpha": (0.1, 0.2, 0.3),
        "beta": (0.1, 0.2, 0.3),
        "gamma": (0.5, 1.0, 2.0),
        "log_zero": (-4.0, -3.0, -2.0),
    },
    hostile=lambda rng: hostile_logits(rng) | {"sure and gamma below 1": (SURE, {"gamma": 0.5})},
    limits={
        "the active losses of all labels sum to one": lambda inputs: (
            sum(
                lossfns.normalized_active_passive(inputs[0], np.full(6, k, np.int32), beta=0.0, gamma=2.0)
                for k in range(CLASSES)
            ),
            np.ones(6),
        ),
        "constant weights leave the value": lambda inputs: (
            lossfns.normalized_active_passive(*inputs, gamma=0.5, constant_weights=True),
            lossfns.normalized_active_passive(*inputs, gamma=0.5),
        ),
        "A = -2 is the absolute error": lambda inputs: (
            lossfns.normalized_active_passive(*inputs, alpha=0.0, log_zero=-2.0),
            jnp.abs(jax.nn.softmax(inputs[0]) - jax.nn.one_hot(inputs[1], CLASSES)).sum(-1),
        ),
    },
    bad_calls=(
        *WRONG_LABELS,
        label_call("alpha", "-1", alpha=-1),
        label_call("gamma", "-1", gamma=-1),
        label_call("log_zero", "negative", "0", log_zero=0),
        label_call("constant_weights", "True or False", "1", constant_weights=1),
    ),
)


def hostile_activations(rng):
    logits, labels = labelled_rows(rng, 2)
    named = hostile_logits(rng)
    return named | {
        "finite support": (named["-inf logits"][0], {"t1": 0.5, "t2": 0.5}),
        "temperatures of 1": (named["-inf logits"][0], {"t1": 1.0, "t2": 1.0}),
        "t1 near 1 and t2 near 1": ((logits, labels), {"t1": 1 - 1e-6, "t2": 1 + 1e-6}),
        "heavy tails": ((100 * logits, labels), {"t1": 0.0, "t2": 4.0}),
    }


def naive_bi_tempered(logits, labels):
    """The authors' fixed-point iteration, often enough."""
    top = logits.max(-1, keepdims=True)
    start = logits - top
    scaled = start

    def tempered_exp(x):
        return (1 - 0.2 * x) ** -5.0

    for _ in range(20):
        scaled = start * tempered_exp(scaled).sum(-1, keepdims=True) ** -0.2
    normalizer = (tempered_exp(scaled).sum(-1, keepdims=True) ** 0.2 - 1) / 0.2
    p = tempered_exp(start - normalizer)
    label = jnp.take_along_axis(p, labels[..., None], -1)[..., 0]
    return (1 - label**0.2) / 0.2 - (1 - (p**1.2).sum(-1)) / 1.2


BI_TEMPERED = labelled_case(
    lossfns.bi_tempered,
    oracles.bi_tempered,
    naive_bi_tempered,
    variants=({}, {"t1": 0.3, "t2": 2.5}),
    sweep={"t1": (0.2, 0.5, 0.8), "t2": (1.1, 1.2, 1.3)},
    hostile=hostile_activations,
    limits={"temperatures of 1 are the cross-entropy": cross_entropy_at(lossfns.bi_tempered, t1=1.0, t2=1.0)},
    bad_calls=(*WRONG_LABELS, label_call("t1", "1.5", t1=1.5), label_call("t2", "positive", "0", t2=0)),
)


def naive_bootstrapped(logits, labels):
    p = jax.nn.softmax(logits, -1)
    return -0.95 * jnp.log(probability(logits, labels)) - 0.05 * (p * jnp.log(p)).sum(-1)


BOOTSTRAPPED = labelled_case(
    lossfns.bootstrapped,
    oracles.bootstrapped,
    naive_bootstrapped,
    variants=({}, {"beta": 0.8, "form": "hard"}),
    sweep={"beta": (0.7, 0.8, 0.9)},
    limits={"beta 1 is the cross-entropy": cross_entropy_at(lossfns.bootstrapped, beta=1.0)},
    bad_calls=(
        *WRONG_LABELS,
        label_call("beta", "1.5", beta=1.5),
        label_call("form", "soft", "hard", "firm", form="firm"),
    ),
)


NOISE = 0.7 * np.eye(CLASSES) + 0.3 / CLASSES
NOISE[1] = [0.5, 0.5, 0, 0, 0]


@functools.wraps(lossfns.forward_corrected)
def with_noise(logits, labels, *, where=None, transition=None):
    size = logits.shape[-1]
    noise = np.eye(size) if size < CLASSES else NOISE
    transition = noise if transition is None else transition
    return lossfns.forward_corrected(logits, labels, jnp.asarray(transition, np.float32), where=where)


def noise_oracle(logits, labels, *, transition=None):
    size = logits.shape[-1]
    noise = np.float64(np.float32(np.eye(size) if size < CLASSES else NOISE))
    return oracles.forward_corrected(logits, labels, noise if transition is None else transition)


def naive_forward(logits, labels):
    noisy = jax.nn.softmax(logits, -1) @ jnp.asarray(NOISE, logits.dtype)
    return -jnp.log(jnp.take_along_axis(noisy, labels[..., None], -1)[..., 0])


def noise_call(*words, transition):
    return BadCall((zeros(3, 4), zeros(3, dtype=np.int32)), words, {"transition": transition})


FORWARD = labelled_case(
    with_noise,
    noise_oracle,
    naive_forward,
    limits={
        "without noise it is the cross-entropy": lambda inputs: (
            lossfns.forward_corrected(*inputs, jnp.eye(CLASSES)),
            lossfns.softmax_cross_entropy(*inputs),
        ),
        "a matrix that is none is NaN": lambda inputs: (
            lossfns.forward_corrected(*inputs, jnp.full((CLASSES, CLASSES), 0.3)),
            np.full(6, np.nan),
        ),
    },
    bad_calls=(
        *WRONG_LABELS,
        noise_call("transition", "(4, 4)", "(4, 3)", transition=zeros(4, 3)),
        noise_call("transition", "(4, 4)", "(4,)", transition=zeros(4)),
    ),
)


def held_rows(rng, rows):
    targets = rng.uniform(size=(rows, CLASSES))
    return *labelled_rows(rng, rows), 0.8 * targets / targets.sum(-1, keepdims=True)


def early_values(logits, labels, targets, **options):
    return lossfns.early_learning(logits, labels, targets, **options).values


def naive_early(logits, labels, targets):
    p = jax.nn.softmax(logits, -1)
    return 3 * jnp.log(1 - (p * targets).sum(-1)) - jnp.log(probability(logits, labels))


def hostile_held(rng):
    logits, labels, targets = held_rows(rng, 4)
    sure = np.eye(3)
    named = {
        name: ((x, y, np.full(np.shape(x), 0.5 / np.shape(x)[-1])), options)
        for name, ((x, y), options) in hostile_logits(rng).items()
    }
    return named | {
        "sure and held": ((SURE[0], SURE[1], sure[[0, 1]]), {}),
        "sure and held to another class": ((SURE[0], SURE[1], sure[[1, 0]]), {}),
        "targets that sum to more than one": ((logits, labels, 2 * targets), {}),
        "a negative target": ((logits, labels, targets - 0.2), {}),
    }


EARLY = LossCase(
    early_values,
    held_rows,
    oracles.early_learning,
    naive_early,
    differentiable=(0,),
    # New targets follow the prediction and are constants of the gradient; differences would see them move.
    variants=({"momentum": 1.0}, {"momentum": 1.0, "strength": 1.0}),
    sweep={"strength": (1.0, 2.0, 3.0), "momentum": (0.5, 0.6, 0.7)},
    labels=1,
    outside={2: (-0.5, 1.5)},
    shift_invariant=(0,),
    hostile=hostile_held,
    limits={
        "strength 0 is the cross-entropy": lambda inputs: (
            early_values(*inputs, strength=0.0),
            lossfns.softmax_cross_entropy(*inputs[:2]),
        )
    },
    bad_calls=(
        BadCall((zeros(3, 4), zeros(4, dtype=np.int32), zeros(3, 4)), ("labels", "(3,)", "(4,)")),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32), zeros(3, 5)), ("targets", "(3, 4)", "(3, 5)")),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32), zeros(3, 4, dtype=np.int32)), ("targets", "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32), zeros(3, 4)), ("momentum", "1.5"), {"momentum": 1.5}),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32), zeros(3, 4)), ("strength", "-1"), {"strength": -1}),
    ),
)


ROWS = {
    "bi_tempered": BI_TEMPERED,
    "bootstrapped": BOOTSTRAPPED,
    "early_learning": EARLY,
    "forward_corrected": FORWARD,
    "generalized_cross_entropy": GENERALIZED,
    "normalized_active_passive": ACTIVE_PASSIVE,
    "symmetric_cross_entropy": SYMMETRIC,
}
