"""Cases of `lossfns.noisy_labels.bounded`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from tests.cases._shared import CLASSES, SURE, WRONG_LABELS, hostile_logits, label_call, probability
from tests.cases.noisy_labels._shared import cross_entropy_at, labelled_case
from tests.oracles.noisy_labels import bounded as oracles

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


CASES = {
    "generalized_cross_entropy": GENERALIZED,
    "normalized_active_passive": ACTIVE_PASSIVE,
    "symmetric_cross_entropy": SYMMETRIC,
}
