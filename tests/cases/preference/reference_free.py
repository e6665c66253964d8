"""Cases of `lossfns.preference.reference_free`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.preference._shared import INF, hostile_pairs, wrong_two
from tests.oracles.preference import reference_free as oracles


def two_averages(rng, rows):
    return tuple(-rng.uniform(0.2, 3, (2, rows)))


def naive_orpo(chosen, rejected):
    odds = (chosen - rejected) - (jnp.log(1 - jnp.exp(chosen)) - jnp.log(1 - jnp.exp(rejected)))
    return -chosen - 0.1 * jnp.log(jax.nn.sigmoid(odds))


ORPO = LossCase(
    lossfns.orpo,
    two_averages,
    oracles.orpo,
    naive_orpo,
    variants=({}, {"weight": 1.0, "with_nll": False}),
    sweep={"weight": (0.1, 0.2, 0.5)},
    hostile=lambda rng: {
        "nearly certain": ((np.array([-1e-8, -1e-3, -1e-8, -2e-8]), np.array([-1.0, -1e-8, -2e-8, -2e-8])), {}),
        "certain": ((np.array([0.0, -1, 0]), np.array([-1.0, 0, 0])), {"weight": 1.0}),
        "impossible": ((np.array([-INF, -1]), np.array([-1, -INF])), {}),
        "no log-probabilities": ((np.array([0.5, -1]), np.array([-1, 0.5])), {}),
    },
    non_negative=True,
    bad_calls=(*wrong_two("weight", -1), BadCall((zeros(3), zeros(3)), ("with_nll", "1"), {"with_nll": 1})),
)

SIMPO = LossCase(
    lossfns.simpo,
    two_averages,
    oracles.simpo,
    lambda x, y: -jnp.log(jax.nn.sigmoid(2 * (x - y) - 0.5)),
    variants=({}, {"beta": 10.0, "gamma": 1.0, "label_smoothing": 0.1}),
    sweep={"beta": (2.0, 2.5, 10.0), "gamma": (0.0, 0.5, 1.0), "label_smoothing": (0.1, 0.2, 0.3)},
    hostile=hostile_pairs,
    non_negative=True,
    condition=lambda kwargs: kwargs.get("beta", 2.0) / 2,
    bad_calls=(
        *wrong_two("beta", 0),
        BadCall((zeros(3), zeros(3)), ("gamma", "inf"), {"gamma": INF}),
        BadCall((zeros(3), zeros(3)), ("label_smoothing", "-0.5"), {"label_smoothing": -0.5}),
    ),
)
CPO = LossCase(
    lossfns.cpo,
    two_averages,
    oracles.cpo,
    lambda x, y: -jnp.log(jax.nn.sigmoid(0.1 * (x - y))) - x,
    variants=({}, {"beta": 0.5, "label_smoothing": 0.1, "nll_weight": 0}),
    sweep={"beta": (0.1, 0.2, 0.5), "label_smoothing": (0.1, 0.2, 0.3), "nll_weight": (0.5, 1.0, 2.0)},
    hostile=hostile_pairs,
    limits={
        "DPO with a uniform reference": lambda x: (
            lossfns.cpo(*x, nll_weight=0),
            lossfns.dpo(*x, np.full_like(x[0], -2), np.full_like(x[0], -2)),
        )
    },
    bad_calls=(*wrong_two("beta", 0), BadCall((zeros(3), zeros(3)), ("nll_weight", "-1"), {"nll_weight": -1})),
)
SLIC_HINGE = LossCase(
    lossfns.slic_hinge,
    two_averages,
    oracles.slic_hinge,
    lambda x, y: jnp.maximum(0, 1 - x + y),
    variants=({}, {"margin": 0.3}),
    sweep={"margin": (0.5, 1.0, 2.0)},
    hostile=hostile_pairs,
    non_negative=True,
    bad_calls=wrong_two("margin", -1),
)


CASES = {
    "cpo": CPO,
    "orpo": ORPO,
    "simpo": SIMPO,
    "slic_hinge": SLIC_HINGE,
}
