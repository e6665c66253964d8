"""Cases of `lossfns.compression.sparsity`."""

import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.compression._shared import WRONG_PARAMETERS, parameters
from tests.oracles.compression import sparsity as oracles

GROUP_LASSO = LossCase(
    lossfns.group_lasso,
    parameters,
    oracles.group_lasso,
    batched=False,
    variants=({}, {"weight": 0.1, "axis": 0, "by_size": False}),
    sweep={"weight": (0.1, 0.2, 0.3)},
    hostile=lambda rng: {
        "an empty tree": (({},), {}),
        "a group of zeros": (({"w": np.array([[0.0, 3], [0, 4]])},), {}),
        "no entry": (({"w": zeros(0, 3)},), {}),
        "entries of 1e25": (({"w": np.array([[1e25, 1e-25], [1e25, 1e-25]])},), {"weight": 1e-5}),
    },
    bad_calls=(
        *WRONG_PARAMETERS,
        BadCall(({"w": zeros(3)},), ("axis", "(3,)", "1"), {"axis": 1}),
        BadCall(({"w": zeros()},), ("axis", "()")),
        BadCall(({"w": zeros(3)},), ("axis", "integer", "0.5"), {"axis": 0.5}),
    ),
)
L0 = LossCase(
    lossfns.l0_hard_concrete,
    parameters,
    oracles.l0_hard_concrete,
    batched=False,
    variants=({}, {"weight": 0.1, "temperature": 0.5, "low": -0.2, "high": 1.5}),
    sweep={
        "weight": (0.1, 0.2, 0.3),
        "temperature": (0.5, 0.6, 0.7),
        "low": (-0.1, -0.2, -0.3),
        "high": (1.1, 1.2, 1.3),
    },
    hostile=lambda rng: {"an empty tree": (({},), {})},
    bad_calls=(
        BadCall(({"gates": zeros(2, dtype=np.int32)},), ("gates", "floating", "int32")),
        BadCall(({"gates": zeros(2)},), ("low", "below 0", "0.1"), {"low": 0.1}),
        BadCall(({"gates": zeros(2)},), ("high", "above 1", "1"), {"high": 1}),
        BadCall(({"gates": zeros(2)},), ("temperature", "0"), {"temperature": 0}),
    ),
)


def gates(log_alpha, **options):
    return lossfns.hard_concrete_gates(None, log_alpha, **options)


GATES = LossCase(
    gates,
    lambda rng, rows: (rng.normal(size=(2, 3)),),
    oracles.gates,
    name="hard_concrete_gates",
    batched=False,
    variants=({}, {"low": -0.5, "high": 1.5}),
    sweep={"temperature": (0.5, 0.6, 0.7), "low": (-0.1, -0.2, -0.3), "high": (1.1, 1.2, 1.3)},
    bad_calls=(
        BadCall((zeros(2, dtype=np.int32),), ("log_alpha", "floating", "int32")),
        BadCall((zeros(2),), ("low", "below 0", "0"), {"low": 0}),
        BadCall((zeros(2),), ("high", "above 1", "0.5"), {"high": 0.5}),
    ),
)


def three_kernels(rng, rows):
    return tuple(rng.normal(size=(3, 2, 3)))


MOVEMENT = LossCase(
    lossfns.movement_scores,
    three_kernels,
    oracles.movement_scores,
    lambda scores, params, gradients: scores - params * gradients,
    batched=False,
    variants=({}, {"rate": 0.1}),
    sweep={"rate": (0.1, 0.2, 0.3)},
    bad_calls=(
        BadCall((zeros(2), zeros(3), zeros(2)), ("params", "(2,)", "(3,)")),
        BadCall((zeros(2), zeros(2), {"w": zeros(2)}), ("gradients", "structure", "w")),
        BadCall((zeros(2), zeros(2, dtype=np.int32), zeros(2)), ("params", "floating", "int32")),
        BadCall((zeros(2), zeros(2), zeros(2)), ("rate", "0"), {"rate": 0}),
    ),
)


CASES = {
    "group_lasso": GROUP_LASSO,
    "hard_concrete_gates": GATES,
    "l0_hard_concrete": L0,
    "movement_scores": MOVEMENT,
}
