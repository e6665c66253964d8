"""Rows of the functions of parameters."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import regularizers as oracles
from tests.rows import zeros


def parameters(rng, rows):
    return ({"bias": rng.normal(size=3), "kernel": rng.normal(size=(2, 3))},)


NO_PARAMETER = {"an empty tree": (({},), {}), "one number": (({"scale": np.float32(-2)},), {})}
WRONG_PARAMETERS = (
    BadCall(({"kernel": zeros(2, dtype=np.int32)},), ("kernel", "floating", "int32")),
    BadCall(({"kernel": zeros(2)},), ("weight", "-1"), {"weight": -1}),
)
L1 = LossCase(
    lossfns.l1,
    parameters,
    oracles.l1,
    lambda params: sum(jnp.abs(x).sum() for x in params.values()),
    batched=False,
    variants=({}, {"weight": 0.1}),
    sweep={"weight": (0.1, 0.2, 0.3)},
    hostile=lambda rng: NO_PARAMETER,
    bad_calls=WRONG_PARAMETERS,
)
L2 = LossCase(
    lossfns.l2,
    parameters,
    oracles.l2,
    lambda params: sum((x * x).sum() for x in params.values()),
    batched=False,
    variants=({}, {"weight": 0.1, "half": True}),
    sweep={"weight": (0.1, 0.2, 0.3)},
    hostile=lambda rng: NO_PARAMETER,
    bad_calls=WRONG_PARAMETERS,
)
PROXIMAL = LossCase(
    lossfns.proximal,
    lambda rng, rows: (*parameters(rng, rows), *parameters(rng, rows)),
    oracles.proximal,
    lambda params, anchor: sum(((params[name] - anchor[name]) ** 2).sum() for name in params),
    batched=False,
    variants=({}, {"weight": 0.1, "half": True}),
    sweep={"weight": (0.1, 0.2, 0.3)},
    hostile=lambda rng: {
        "both + 1e4": (({"scale": np.array([1e4 + 1.5])}, {"scale": np.array([1e4])}), {}),
        "an empty tree": (({}, {}), {}),
    },
    bad_calls=(
        BadCall(({"kernel": zeros(2)}, {"kernel": zeros(3)}), ("kernel", "(2,)", "(3,)")),
        BadCall(({"kernel": zeros(2)}, {"bias": zeros(2)}), ("kernel", "bias")),
        BadCall(({"kernel": zeros(2)}, {"kernel": zeros(2)}), ("weight", "-1"), {"weight": -1}),
    ),
)


ROWS = {
    "l1": L1,
    "l2": L2,
    "proximal": PROXIMAL,
}
