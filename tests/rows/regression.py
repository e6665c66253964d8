"""Rows of the errors."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import regression as oracles
from tests.rows import zeros


def predicted_rows(rng, rows):
    return rng.normal(size=(rows, 3)) * 2, rng.normal(size=(rows, 3))


def hostile_predictions(rng):
    predictions, targets = predicted_rows(rng, 4)
    return {
        "both + 1e4": ((predictions + 1e4, targets + 1e4), {}),
        "equal": ((targets, targets), {}),
        "infinite predictions": ((np.array([np.inf, -np.inf, 0.0]), zeros(3)), {}),
    }


WRONG_PREDICTIONS = (
    BadCall((zeros(3, 1), zeros(3)), ("(3, 1)", "(3,)")),
    BadCall((zeros(3, dtype=np.int32), zeros(3)), ("predictions", "floating", "int32")),
)
SQUARED = LossCase(
    lossfns.squared_error,
    predicted_rows,
    oracles.squared_error,
    lambda predictions, targets: (predictions - targets) ** 2,
    element_masks=True,
    hostile=hostile_predictions,
    bad_calls=WRONG_PREDICTIONS,
)
ABSOLUTE = LossCase(
    lossfns.absolute_error,
    predicted_rows,
    oracles.absolute_error,
    lambda predictions, targets: jnp.abs(predictions - targets),
    element_masks=True,
    hostile=hostile_predictions,
    bad_calls=WRONG_PREDICTIONS,
)


def naive_huber(predictions, targets):
    e = jnp.abs(predictions - targets)
    return jnp.where(e <= 1, e * e / 2, e - 0.5)


HUBER = LossCase(
    lossfns.huber,
    predicted_rows,
    oracles.huber,
    naive_huber,
    variants=({}, {"delta": 0.3}),
    sweep={"delta": (0.5, 1.0, 2.0)},
    element_masks=True,
    hostile=lambda rng: hostile_predictions(rng) | {"errors of 1e25": ((np.array([1e25, -1e25]), zeros(2)), {})},
    bad_calls=(*WRONG_PREDICTIONS, BadCall((zeros(3), zeros(3)), ("delta", "positive", "-1"), {"delta": -1})),
)


ROWS = {
    "absolute_error": ABSOLUTE,
    "huber": HUBER,
    "squared_error": SQUARED,
}
