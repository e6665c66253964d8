"""Cases of `lossfns.regularizers.parameters`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.oracles.regularizers import parameters as oracles


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

WEIGHTS_BELOW_0 = [
    BadCall(({"kernel": zeros(2)},), (name, "at least 0", "-1"), {name: -1}) for name in ("l1_weight", "l2_weight")
]
ELASTIC = LossCase(
    lossfns.elastic_net,
    parameters,
    oracles.elastic_net,
    lambda params: sum(jnp.abs(x).sum() + (x * x).sum() for x in params.values()),
    batched=False,
    sweep={"l1_weight": (0.1, 0.2, 0.3), "l2_weight": (0.1, 0.2, 0.3)},
    limits={
        "l1": lambda inputs: (lossfns.elastic_net(*inputs, l2_weight=0.0), lossfns.l1(*inputs)),
        "l2": lambda inputs: (lossfns.elastic_net(*inputs, l1_weight=0.0), lossfns.l2(*inputs)),
    },
    non_negative=True,
    hostile=lambda rng: NO_PARAMETER,
    bad_calls=(WRONG_PARAMETERS[0], *WEIGHTS_BELOW_0),
)
L2_SP = LossCase(
    lossfns.l2_sp,
    lambda rng, rows: (*parameters(rng, rows), *parameters(rng, rows), {"head": rng.normal(size=4)}),
    oracles.l2_sp,
    lambda params, start, new: (
        0.05 * sum(((params[name] - start[name]) ** 2).sum() for name in params) + 0.005 * (new["head"] ** 2).sum()
    ),
    batched=False,
    sweep={"start_weight": (0.1, 0.2, 0.3), "new_weight": (0.1, 0.2, 0.3)},
    symmetric=((0, 1),),
    non_negative=True,
    hostile=lambda rng: {"nothing new": (({"w": np.ones(2)}, {"w": np.zeros(2)}, {}), {})},
    bad_calls=(
        BadCall(({"kernel": zeros(2)}, {"kernel": zeros(3)}, {}), ("start", "(2,)", "(3,)")),
        BadCall(({"kernel": zeros(2)}, {"bias": zeros(2)}, {}), ("start", "kernel", "bias")),
        BadCall(({}, {}, {"head": zeros(2, dtype=np.int32)}), ("head", "floating", "int32")),
        BadCall(({}, {}, {}), ("new_weight", "-1"), {"new_weight": -1}),
    ),
)


def informed(rng, rows):
    fisher = {"bias": rng.uniform(0.1, 2, 3), "kernel": rng.uniform(0.1, 2, (2, 3))}
    return *parameters(rng, rows), *parameters(rng, rows), fisher


EWC = LossCase(
    lossfns.ewc,
    informed,
    oracles.ewc,
    lambda params, anchor, fisher: sum((fisher[k] * (params[k] - anchor[k]) ** 2).sum() for k in params) / 2,
    batched=False,
    sweep={"weight": (0.1, 0.2, 0.3)},
    symmetric=((0, 1),),
    non_negative=True,
    limits={
        "even information": lambda inputs: (
            lossfns.ewc(inputs[0], inputs[1], {k: jnp.ones_like(x) for k, x in inputs[2].items()}),
            lossfns.proximal(inputs[0], inputs[1], half=True),
        )
    },
    hostile=lambda rng: {"less than no information": (({"w": np.ones(2)}, {"w": np.ones(2)}, {"w": -np.ones(2)}), {})},
    bad_calls=(
        BadCall(({"kernel": zeros(2)}, {"kernel": zeros(2)}, {"kernel": zeros(3)}), ("fisher", "(2,)", "(3,)")),
        BadCall(({"kernel": zeros(2)}, {"bias": zeros(2)}, {"kernel": zeros(2)}), ("anchor", "kernel", "bias")),
        BadCall(({}, {}, {}), ("weight", "-1"), {"weight": -1}),
    ),
)
ORTHOGONALITY = LossCase(
    lossfns.orthogonality,
    lambda rng, rows: ({"conv": rng.normal(size=(2, 2, 3)), "kernel": rng.normal(size=(3, 2))},),
    oracles.orthogonality,
    lambda params: sum(
        ((x.reshape(-1, x.shape[-1]).T @ x.reshape(-1, x.shape[-1]) - jnp.eye(x.shape[-1], dtype=x.dtype)) ** 2).sum()
        for x in params.values()
    ),
    batched=False,
    variants=({}, {"side": "both", "weight": 0.1}),
    sweep={"weight": (0.1, 0.2, 0.3)},
    non_negative=True,
    limits={
        "rows are columns of the transpose": lambda inputs: (
            lossfns.orthogonality(inputs[0]["kernel"], side="rows"),
            lossfns.orthogonality(inputs[0]["kernel"].T),
        )
    },
    hostile=lambda rng: {"an empty tree": (({},), {}), "orthonormal": (({"w": np.eye(4)[:, :3]},), {})},
    bad_calls=(
        BadCall(({"bias": zeros(3)},), ("bias", "two axes", "(3,)")),
        BadCall(({"kernel": zeros(2, 2, dtype=np.int32)},), ("kernel", "floating", "int32")),
        BadCall(({"kernel": zeros(2, 2)},), ("side", "columns", "'left'"), {"side": "left"}),
    ),
)


CASES = {
    "elastic_net": ELASTIC,
    "ewc": EWC,
    "l1": L1,
    "l2": L2,
    "l2_sp": L2_SP,
    "orthogonality": ORTHOGONALITY,
    "proximal": PROXIMAL,
}
