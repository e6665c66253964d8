"""Cases of `lossfns.noisy_labels.corrected`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import (
    CLASSES,
    SURE,
    WRONG_LABELS,
    hostile_logits,
    label_call,
    labelled_rows,
    probability,
    zeros,
)
from tests.cases.noisy_labels._shared import cross_entropy_at, labelled_case
from tests.oracles.noisy_labels import corrected as oracles


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


CASES = {
    "bootstrapped": BOOTSTRAPPED,
    "early_learning": EARLY,
    "forward_corrected": FORWARD,
}
