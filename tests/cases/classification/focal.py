"""Cases of `lossfns.classification.focal`."""

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
from tests.oracles.classification import focal as oracles


def naive_focal(logits, labels):
    p = probability(logits, labels)
    return -((1 - p) ** 2) * jnp.log(p)


FOCAL = LossCase(
    lossfns.focal,
    labelled_rows,
    oracles.focal,
    naive_focal,
    variants=({}, {"gamma": 0.5, "alpha": 0.25}),
    sweep={"gamma": (0.5, 1.0, 2.0), "alpha": (0.1, 0.2, 0.3)},
    labels=1,
    shift_invariant=(0,),
    non_negative=True,
    hostile=lambda rng: (
        hostile_logits(rng)
        | {
            "sure and gamma below 1": (SURE, {"gamma": 0.5}),
            "sure and gamma 0": (SURE, {"gamma": 0.0}),
            "weights of classes": (labelled_rows(rng, 4), {"alpha": np.arange(1.0, CLASSES + 1, dtype=np.float32)}),
        }
    ),
    limits={
        "gamma 0 is the cross-entropy": lambda inputs: (
            lossfns.focal(*inputs, gamma=0.0),
            lossfns.softmax_cross_entropy(*inputs),
        )
    },
    bad_calls=(
        *WRONG_LABELS,
        label_call("gamma", "-1", gamma=-1),
        label_call("alpha", "(4,)", "(3,)", alpha=zeros(3)),
        label_call("alpha", "-0.1", alpha=-0.1),
    ),
)


def naive_poly1(logits, labels):
    p = probability(logits, labels)
    return 2 * (1 - p) - jnp.log(p)


POLY1 = LossCase(
    lossfns.poly1,
    labelled_rows,
    oracles.poly1,
    naive_poly1,
    variants=({}, {"epsilon": -1.0}),
    sweep={"epsilon": (-0.5, 1.0, 2.0)},
    labels=1,
    shift_invariant=(0,),
    non_negative=True,
    hostile=hostile_logits,
    limits={
        "epsilon 0 is the cross-entropy": lambda inputs: (
            lossfns.poly1(*inputs, epsilon=0.0),
            lossfns.softmax_cross_entropy(*inputs),
        )
    },
    bad_calls=(*WRONG_LABELS, label_call("epsilon", "-2", epsilon=-2)),
)


def binary_rows(rng, rows):
    return rng.normal(size=(rows, 3)) * 2, rng.uniform(size=(rows, 3))


def answered_rows(rng, rows):
    return rng.normal(size=(rows, 3)) * 2, rng.integers(0, 2, (rows, 3)).astype(np.int32)


def hostile_answers(rng):
    inf, answers = np.inf, np.array([[0, 1, 1]])
    sure = np.array([[-30.0, 30.0, 200.0]])
    return {
        "logits of +-1e4": ((np.array([[1e4, -1e4, 1e4]]), answers), {}),
        "right at infinity": ((np.array([[-inf, inf, 0]]), answers), {}),
        "wrong at infinity": ((np.array([[inf, -inf, inf]]), answers), {}),
        "sure and right": ((sure, answers), {}),
        "targets that are not answers": ((sure, np.array([[2, -1, 1]])), {}),
    }


def hostile_focal_answers(rng):
    named = hostile_answers(rng)
    (sure, answers), _ = named["sure and right"]
    return named | {
        "sure, right and gamma below 1": ((sure, answers), {"gamma": 0.5}),
        "only positives count": ((sure, answers), {"alpha": 1.0}),
        "even weights": ((sure, answers), {"alpha": None}),
    }


def hostile_shares(rng):
    inf = np.inf
    return {
        "at infinity": ((np.array([[-inf, inf, -inf, inf]]), np.array([[0.0, 1.0, 0.5, 0.0]])), {}),
        "targets that are not probabilities": ((zeros(1, 3), np.array([[1.5, -0.1, np.nan]])), {}),
    }


WRONG_ANSWERS = (
    BadCall((zeros(3, 1), zeros(3)), ("(3, 1)", "(3,)")),
    BadCall((zeros(3, dtype=np.int32), zeros(3)), ("logits", "floating", "int32")),
)


def naive_sigmoid_focal(logits, targets):
    p = jax.nn.sigmoid(logits)
    positive = -0.25 * targets * (1 - p) ** 2 * jnp.log(p)
    return positive - 0.75 * (1 - targets) * p**2 * jnp.log(1 - p)


def doubled(inputs):
    """Gamma 0 and even weights."""
    return lossfns.sigmoid_focal(*inputs, gamma=0.0, alpha=None), lossfns.sigmoid_cross_entropy(*inputs)


SIGMOID_FOCAL = LossCase(
    lossfns.sigmoid_focal,
    answered_rows,
    oracles.sigmoid_focal,
    naive_sigmoid_focal,
    variants=({}, {"gamma": 0.5, "alpha": None}),
    sweep={"gamma": (0.5, 1.0, 2.0), "alpha": (0.1, 0.2, 0.3)},
    element_masks=True,
    non_negative=True,
    hostile=hostile_focal_answers,
    limits={"gamma 0 is the cross-entropy": doubled},
    outside={1: (-1, 2)},
    bad_calls=(
        *WRONG_ANSWERS,
        BadCall((zeros(3), zeros(3)), ("gamma", "-1"), {"gamma": -1}),
        BadCall((zeros(3), zeros(3)), ("alpha", "1.5"), {"alpha": 1.5}),
    ),
    skip={"errors name both sides": "targets may be of any real dtype; the row of real targets has the bad calls"},
)
SOFT_SIGMOID_FOCAL = LossCase(
    lossfns.sigmoid_focal,
    binary_rows,
    oracles.sigmoid_focal,
    naive_sigmoid_focal,
    element_masks=True,
    outside={1: (-0.5, 1.5)},
    non_negative=True,
    hostile=hostile_shares,
    limits={
        "gamma 0 is the cross-entropy": doubled,
        "0.0 and 1.0 are 0 and 1": lambda inputs: (
            lossfns.sigmoid_focal(inputs[0], np.float32(inputs[1] > 0.5)),
            lossfns.sigmoid_focal(inputs[0], inputs[1] > 0.5),
        ),
    },
    bad_calls=SIGMOID_FOCAL.bad_calls,
)


def naive_asymmetric(logits, targets):
    p = jax.nn.sigmoid(logits)
    lowered = jnp.maximum(p - 0.05, 0)
    return -targets * jnp.log(p) - (1 - targets) * lowered**4 * jnp.log(1 - lowered)


ASYMMETRIC = LossCase(
    lossfns.asymmetric,
    binary_rows,
    oracles.asymmetric,
    naive_asymmetric,
    variants=({}, {"gamma_positive": 1.0, "gamma_negative": 0.5, "margin": 0.0}),
    sweep={"gamma_positive": (0.5, 1.0, 2.0), "gamma_negative": (1.0, 2.0, 3.0), "margin": (0.1, 0.2, 0.3)},
    element_masks=True,
    non_negative=True,
    hostile=lambda rng: (
        hostile_answers(rng)
        | hostile_shares(rng)
        | {
            f"{name}, no margin, gamma below 1": (given, {"gamma_negative": 0.5, "margin": 0.0})
            for name, (given, _) in hostile_answers(rng).items()
        }
    ),
    limits={
        "no margin and even exponents are the focal loss": lambda inputs: (
            lossfns.asymmetric(*inputs, gamma_positive=2.0, gamma_negative=2.0, margin=0.0),
            lossfns.sigmoid_focal(*inputs, alpha=None),
        ),
        "constant weights change no value": lambda inputs: (
            lossfns.asymmetric(*inputs, gamma_positive=1.0, constant_weights=True),
            lossfns.asymmetric(*inputs, gamma_positive=1.0),
        ),
    },
    outside={1: (-0.5, 1.5)},
    bad_calls=(
        *WRONG_ANSWERS,
        BadCall((zeros(3), zeros(3)), ("margin", "below 1", "1.0"), {"margin": 1.0}),
        BadCall((zeros(3), zeros(3)), ("gamma_negative", "-1"), {"gamma_negative": -1}),
        BadCall((zeros(3), zeros(3)), ("constant_weights", "True or False", "1"), {"constant_weights": 1}),
    ),
)


CASES = {
    "asymmetric": ASYMMETRIC,
    "focal": FOCAL,
    "poly1": POLY1,
    "sigmoid_focal": SIGMOID_FOCAL,
    "sigmoid_focal of real targets": SOFT_SIGMOID_FOCAL,
}
