"""Cases of `lossfns.regression.errors`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.regression._shared import WRONG_PREDICTIONS, hostile_predictions, predicted_rows
from tests.oracles.regression import errors as oracles

SQUARED = LossCase(
    lossfns.squared_error,
    predicted_rows,
    oracles.squared_error,
    lambda predictions, targets: (predictions - targets) ** 2,
    element_masks=True,
    symmetric=((0, 1),),
    non_negative=True,
    hostile=hostile_predictions,
    bad_calls=WRONG_PREDICTIONS,
)
ABSOLUTE = LossCase(
    lossfns.absolute_error,
    predicted_rows,
    oracles.absolute_error,
    lambda predictions, targets: jnp.abs(predictions - targets),
    element_masks=True,
    symmetric=((0, 1),),
    non_negative=True,
    hostile=hostile_predictions,
    bad_calls=WRONG_PREDICTIONS,
)


def naive_huber(predictions, targets):
    e = jnp.abs(predictions - targets)
    return jnp.where(e <= 1, e * e / 2, e - 0.5)


def slope_near_zero(inputs):
    """There it is the error itself, for any delta, to all of its digits."""
    near = jnp.asarray(1e-4 * inputs[0])
    slopes = [jax.grad(lambda x, d=d: lossfns.huber(x, 0 * x, delta=d).sum())(near) for d in (1.0, 1e4)]
    return 1e4 * jnp.stack(slopes), np.stack([1e4 * np.float64(near)] * 2)


HUBER = LossCase(
    lossfns.huber,
    predicted_rows,
    oracles.huber,
    naive_huber,
    variants=({}, {"delta": 0.3}),
    sweep={"delta": (0.5, 1.0, 2.0)},
    element_masks=True,
    symmetric=((0, 1),),
    non_negative=True,
    limits={"the slope near 0": slope_near_zero},
    hostile=lambda rng: hostile_predictions(rng) | {"errors of 1e25": ((np.array([1e25, -1e25]), zeros(2)), {})},
    bad_calls=(*WRONG_PREDICTIONS, BadCall((zeros(3), zeros(3)), ("delta", "positive", "-1"), {"delta": -1})),
)

SMOOTH_L1 = LossCase(
    lossfns.smooth_l1,
    predicted_rows,
    oracles.smooth_l1,
    naive_huber,
    variants=({}, {"beta": 0.3}),
    sweep={"beta": (0.5, 1.0, 2.0)},
    element_masks=True,
    symmetric=((0, 1),),
    non_negative=True,
    limits={
        "huber / beta": lambda inputs: (
            lossfns.smooth_l1(*inputs, beta=0.3),
            lossfns.huber(*map(jnp.asarray, inputs), delta=0.3) / 0.3,
        ),
        "beta 0": lambda inputs: (lossfns.smooth_l1(*inputs, beta=0.0), abs(inputs[0] - inputs[1])),
    },
    hostile=lambda rng: hostile_predictions(rng) | {"errors of 1e25": ((np.array([1e25, -1e25]), zeros(2)), {})},
    bad_calls=(*WRONG_PREDICTIONS, BadCall((zeros(3), zeros(3)), ("beta", "at least 0", "-1"), {"beta": -1})),
)
LOG_COSH = LossCase(
    lossfns.log_cosh,
    predicted_rows,
    oracles.log_cosh,
    lambda predictions, targets: jnp.logaddexp(predictions - targets, targets - predictions) - jnp.log(2.0),
    element_masks=True,
    symmetric=((0, 1),),
    non_negative=True,
    limits={
        "half the square": lambda inputs: (
            lossfns.log_cosh(inputs[0] * 1e-5, 0 * inputs[0]) * 1e10,
            inputs[0] ** 2 / 2,
        )
    },
    hostile=hostile_predictions,
    bad_calls=(*WRONG_PREDICTIONS, BadCall((zeros(3), zeros(4)), ("targets", "(3,)", "(4,)"))),
)
CHARBONNIER = LossCase(
    lossfns.charbonnier,
    predicted_rows,
    oracles.charbonnier,
    lambda predictions, targets: jnp.sqrt((predictions - targets) ** 2 + 0.25),
    variants=({"epsilon": 0.5},),
    sweep={"epsilon": (0.5, 1.0, 2.0)},
    element_masks=True,
    symmetric=((0, 1),),
    non_negative=True,
    hostile=lambda rng: hostile_predictions(rng) | {"errors of 1e25": ((np.array([1e25, -1e-25]), zeros(2)), {})},
    bad_calls=(*WRONG_PREDICTIONS, BadCall((zeros(3), zeros(3)), ("epsilon", "positive", "0"), {"epsilon": 0})),
)


def naive_tukey(predictions, targets):
    e = predictions - targets
    return jnp.where(jnp.abs(e) < 4.685, 1 - (1 - (e / 4.685) ** 2) ** 3, 1) * 4.685**2 / 6


TUKEY = LossCase(
    lossfns.tukey_biweight,
    predicted_rows,
    oracles.tukey_biweight,
    naive_tukey,
    flat="an error beyond the cutoff",
    variants=({}, {"cutoff": 1.5}),
    sweep={"cutoff": (0.5, 1.0, 2.0)},
    element_masks=True,
    symmetric=((0, 1),),
    non_negative=True,
    hostile=lambda rng: hostile_predictions(rng) | {"errors of 1e25": ((np.array([1e25, -1e25]), zeros(2)), {})},
    bad_calls=(*WRONG_PREDICTIONS, BadCall((zeros(3), zeros(3)), ("cutoff", "positive", "-1"), {"cutoff": -1})),
)


CASES = {
    "absolute_error": ABSOLUTE,
    "charbonnier": CHARBONNIER,
    "huber": HUBER,
    "log_cosh": LOG_COSH,
    "smooth_l1": SMOOTH_L1,
    "squared_error": SQUARED,
    "tukey_biweight": TUKEY,
}
