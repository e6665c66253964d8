"""Cases of `lossfns.regularizers.functions`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.regularizers._shared import logit_rows, two_passes
from tests.oracles.regularizers import functions as oracles


def network(x):
    return jnp.tanh(x @ oracles.WIDE.astype(x.dtype)) @ oracles.OUT.astype(x.dtype)


def virtual_adversary(inputs, directions, **options):
    return lossfns.vat(network, inputs, directions, **options)


VAT = LossCase(
    virtual_adversary,
    two_passes,
    oracles.vat,
    name="vat",
    sweep={"epsilon": (0.5, 1.0, 2.0)},
    variants=({}, {"steps": 2, "epsilon": 0.5}),
    scale_invariant=(1,),
    non_negative=True,
    hostile=lambda rng: {"no direction": ((rng.normal(size=(6, 4)), zeros(6, 4)), {})},
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5)), ("directions", "(3, 4)", "(3, 5)")),
        BadCall((zeros(), zeros()), ("inputs", "scalar")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), ("inputs", "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, 4)), ("epsilon", "positive", "0"), {"epsilon": 0}),
        BadCall((zeros(3, 4), zeros(3, 4)), ("steps", "at least 0", "-1"), {"steps": -1}),
    ),
    skip={
        "gradients": "adversary and target have no gradient; tests/lossfns/test_regularizers_functions.py holds them",
    },
    # The direction is a quotient of small numbers, and the divergence a difference of logarithms.
    condition=lambda kwargs: 4.0,
)


def first_score(x):
    return network(x)[:, 0]


def penalised_critic(inputs, **options):
    return lossfns.gradient_penalty(first_score, inputs, **options)


GRADIENT_PENALTY = LossCase(
    penalised_critic,
    logit_rows,
    oracles.gradient_penalty,
    name="gradient_penalty",
    sweep={"target": (0.5, 1.0, 2.0)},
    variants=({}, {"target": 0.1, "one_sided": True}),
    non_negative=True,
    limits={
        "R1": lambda inputs: (
            penalised_critic(jnp.asarray(inputs[0]), target=0.0),
            np.array([(oracles.network_slope(x)[:, 0] ** 2).sum() for x in np.float64(inputs[0])]),
        )
    },
    bad_calls=(
        BadCall((zeros(),), ("inputs", "scalar")),
        BadCall((zeros(3, 4, dtype=np.int32),), ("inputs", "floating", "int32")),
        BadCall((zeros(3, 4),), ("target", "at least 0", "-1"), {"target": -1}),
        BadCall((zeros(3, 4),), ("one_sided", "True or False", "1"), {"one_sided": 1}),
    ),
)


def log_likelihood(params, x, y):
    return -jnp.square(y - x @ params["weight"] - params["bias"]) / 2


def information(params, x, y, **options):
    out = lossfns.fisher_diagonal(log_likelihood, params, x, y, **options)
    return jnp.concatenate([out["bias"][None], out["weight"]])


def linear_model(rng, rows):
    return {"bias": rng.normal(), "weight": rng.normal(size=3)}, rng.normal(size=(5, 3)), rng.normal(size=5)


MODEL = {"bias": zeros(), "weight": zeros(3)}
FISHER = LossCase(
    information,
    linear_model,
    oracles.fisher_diagonal,
    name="fisher_diagonal",
    batched=False,
    non_negative=True,
    hostile=lambda rng: {"no example": (({"bias": 1.0, "weight": np.ones(3)}, zeros(0, 3), zeros(0)), {})},
    bad_calls=(
        BadCall((MODEL, zeros(2, 3), zeros(3)), ("examples[1]", "(2,)", "(3,)")),
        BadCall((MODEL, zeros(), zeros()), ("examples[0]", "scalar")),
        BadCall(({"bias": zeros(dtype=np.int32)}, zeros(2, 3), zeros(2)), ("bias", "floating", "int32")),
        BadCall((MODEL, zeros(2, 3), zeros(2)), ("where", "(2,)", "(3,)"), {"where": np.ones(3, bool)}),
    ),
)


CASES = {
    "fisher_diagonal": FISHER,
    "gradient_penalty": GRADIENT_PENALTY,
    "vat": VAT,
}
