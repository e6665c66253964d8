"""Cases of `lossfns.preference.reward_model`."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.preference._shared import hostile_pairs, rewards, wrong_two
from tests.oracles.preference import reward_model as oracles

BRADLEY_TERRY = LossCase(
    lossfns.bradley_terry,
    rewards,
    oracles.bradley_terry,
    lambda x, y: -jnp.log(jax.nn.sigmoid(x - y)),
    variants=({}, {"margin": 0.5, "centring": 0.01}),
    sweep={"margin": (0.0, 0.5, 1.0), "centring": (0.01, 0.1, 1.0)},
    hostile=lambda rng: hostile_pairs(rng) | {"both + 1e4": (tuple(x + 1e4 for x in rewards(rng, 4)), {})},
    non_negative=True,
    limits={
        "only the difference counts": lambda x: (
            lossfns.bradley_terry(x[0] + np.float32(8), x[1] + np.float32(8)),
            lossfns.bradley_terry(*x),
        )
    },
    bad_calls=(
        *wrong_two("centring", -1),
        BadCall((zeros(3), zeros(3)), ("margin", "(3,)", "(2,)"), {"margin": zeros(2)}),
        BadCall((zeros(3), zeros(3)), ("margin", "finite", "nan"), {"margin": math.nan}),
    ),
)


def bradley_terry_of_margins(chosen, rejected, margins, *, where=None):
    return lossfns.bradley_terry(chosen, rejected, margin=margins, centring=0.01, where=where)


BRADLEY_TERRY_OF_MARGINS = LossCase(
    bradley_terry_of_margins,
    lambda rng, rows: (*rewards(rng, rows), rng.uniform(0, 2, rows)),
    lambda *x: oracles.bradley_terry(*x, centring=0.01),
)


CASES = {
    "bradley_terry": BRADLEY_TERRY,
    "bradley_terry with margins": BRADLEY_TERRY_OF_MARGINS,
}
