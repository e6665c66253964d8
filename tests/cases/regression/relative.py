"""Cases of `lossfns.regression.relative`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.regression._shared import WRONG_PREDICTIONS
from tests.oracles.regression import relative as oracles

LOG_SQUARED = LossCase(
    lossfns.log_squared_error,
    lambda rng, rows: (rng.uniform(0, 3, (rows, 3)), rng.uniform(0, 3, (rows, 3))),
    oracles.log_squared_error,
    lambda predictions, targets: (jnp.log1p(predictions) - jnp.log1p(targets)) ** 2,
    element_masks=True,
    symmetric=((0, 1),),
    non_negative=True,
    hostile=lambda rng: {
        "below -1": ((np.array([-1.5, 0.0, -3.0, 2.0]), np.array([0.0, -2.0, -2.0, 1.0])), {}),
        "at -1": ((np.array([-1.0, 0.0]), np.array([0.0, -1.0])), {}),
    },
    outside={0: (-2.0,), 1: (-2.0,)},
    bad_calls=(*WRONG_PREDICTIONS, BadCall((zeros(3), zeros(4)), ("targets", "(3,)", "(4,)"))),
)


def naive_cosine_distance(predictions, targets):
    norms = jnp.linalg.norm(predictions, axis=-1) * jnp.linalg.norm(targets, axis=-1)
    return 1 - (predictions * targets).sum(-1) / norms


COSINE = LossCase(
    lossfns.cosine_distance,
    lambda rng, rows: (rng.normal(size=(rows, 4)), rng.normal(size=(rows, 4))),
    oracles.cosine_distance,
    naive_cosine_distance,
    symmetric=((0, 1),),
    scale_invariant=(0, 1),
    non_negative=True,
    limits={"with itself": lambda inputs: (lossfns.cosine_distance(inputs[0], inputs[0]), np.zeros(6))},
    hostile=lambda rng: {
        "entries of 1e25": ((1e25 * rng.normal(size=(3, 4)), 1e-25 * rng.normal(size=(3, 4))), {}),
        "opposite": ((np.eye(4), -np.eye(4)), {}),
        "zero targets": ((np.eye(4), zeros(4, 4)), {}),
    },
    bad_calls=(*WRONG_PREDICTIONS, BadCall((zeros(), zeros()), ("predictions", "scalar"))),
)


CASES = {
    "cosine_distance": COSINE,
    "log_squared_error": LOG_SQUARED,
}
