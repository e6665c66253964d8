"""Cases of `lossfns.classification.cross_entropy`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import hostile_logits, labelled_rows, naive_cross_entropy, zeros
from tests.cases.classification._shared import soft_rows
from tests.oracles.classification import cross_entropy as oracles


def hostile_smoothed_logits(rng):
    """The same and what smoothing could get wrong: its mass must not reach masked classes."""
    masked = (np.array([[0, -np.inf, 1], [-np.inf, -np.inf, 3]]), np.array([0, 2]))
    return hostile_logits(rng) | {
        "smoothing with masked classes": (masked, {"label_smoothing": 0.1}),
        "smoothing over others with masked classes": (masked, {"label_smoothing": 0.1, "smoothing_over": "others"}),
        "a cap on masked classes": (masked, {"soft_cap": 5.0}),
        "the z-loss of masked classes": (masked, {"z_loss": 0.1}),
    }


SOFTMAX = LossCase(
    lossfns.softmax_cross_entropy,
    labelled_rows,
    oracles.softmax_cross_entropy,
    naive_cross_entropy,
    variants=(
        {},
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.2, "smoothing_over": "others", "z_loss": 0.01},
        {"soft_cap": 3.0},
    ),
    sweep={"label_smoothing": (0.1, 0.2, 0.3), "z_loss": (1e-4, 1e-3, 1e-2), "soft_cap": (3.0, 30.0, 50.0)},
    labels=1,
    hostile=hostile_smoothed_logits,
    bad_calls=(
        BadCall((zeros(3, 4), zeros(4, dtype=np.int32)), ("(3,)", "(4,)", "(3, 4)")),
        BadCall((zeros(3, 4), zeros(3, 4, dtype=np.int32)), ("(3,)", "(3, 4)")),
        BadCall((zeros(), zeros(dtype=np.int32)), ("logits", "()")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, dtype=np.int32)), ("logits", "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32)), ("label_smoothing", "1.5"), {"label_smoothing": 1.5}),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32)), ("z_loss", "-1"), {"z_loss": -1}),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32)), ("soft_cap", "0"), {"soft_cap": 0}),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32)), ("all", "others", "rest"), {"smoothing_over": "rest"}),
    ),
)


def hostile_soft_rows(rng):
    """The shifts and limits of the integer labels as one-hot targets, and targets that do not sum to one."""
    named = {
        name: ((logits, np.eye(logits.shape[-1])[labels]), options)
        for name, ((logits, labels), options) in hostile_logits(rng).items()
    }
    logits, targets = soft_rows(rng, 4)
    return named | {
        "targets that sum to 3": ((logits, 3 * targets), {}),
        "targets that sum to 0": ((logits, 0 * targets), {}),
        "no mass on a class at -inf": ((np.array([[0, -np.inf, 1.0]] * 2), np.array([[0.5, 0, 0.5], [0, 0, 1]])), {}),
    }


SOFT = LossCase(
    lossfns.soft_cross_entropy,
    soft_rows,
    oracles.soft_cross_entropy,
    lambda logits, targets: -(targets * jnp.log(jax.nn.softmax(logits, -1))).sum(-1),
    hostile=hostile_soft_rows,
    outside={1: (-0.5,)},
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5)), ("(3, 4)", "(3, 5)")),
        BadCall((zeros(3, 4), zeros(3)), ("targets", "(3, 4)", "(3,)")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), ("logits", "floating", "int32")),
    ),
)


def binary_rows(rng, rows):
    return rng.normal(size=(rows, 3)) * 2, rng.uniform(size=(rows, 3))


def hostile_binary(rng):
    inf, answers = np.inf, np.array([[0.0, 1.0, 0.5]])
    return {
        "logits of +-1e4": ((np.array([[1e4, -1e4, 1e4]]), answers), {}),
        "right at infinity": ((np.array([[-inf, inf, 0]]), answers), {}),
        "wrong at infinity": ((np.array([[inf, -inf, inf]]), answers), {}),
        "sure and right": ((np.array([[-30.0, 30.0, 0]]), answers), {"positive_weight": 3.0}),
    }


SIGMOID = LossCase(
    lossfns.sigmoid_cross_entropy,
    binary_rows,
    oracles.sigmoid_cross_entropy,
    lambda logits, targets: (
        -targets * jnp.log(jax.nn.sigmoid(logits)) - (1 - targets) * jnp.log(1 - jax.nn.sigmoid(logits))
    ),
    variants=({}, {"label_smoothing": 0.1, "positive_weight": 3.0}),
    sweep={"label_smoothing": (0.1, 0.2, 0.3), "positive_weight": (1.0, 2.0, 3.0)},
    element_masks=True,
    hostile=hostile_binary,
    outside={1: (-0.5, 1.5)},
    bad_calls=(
        BadCall((zeros(3, 1), zeros(3)), ("(3, 1)", "(3,)")),
        BadCall((zeros(3, dtype=np.int32), zeros(3)), ("logits", "floating", "int32")),
        BadCall((zeros(3), zeros(3)), ("label_smoothing", "-0.1"), {"label_smoothing": -0.1}),
        BadCall((zeros(3), zeros(3)), ("positive_weight", "-1"), {"positive_weight": -1}),
    ),
)


CASES = {
    "sigmoid_cross_entropy": SIGMOID,
    "soft_cross_entropy": SOFT,
    "softmax_cross_entropy": SOFTMAX,
}
