"""Cases of `lossfns.compression.quantization`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.compression._shared import WRONG_PARAMETERS, parameters
from tests.oracles.compression import quantization as oracles


def kernels(rng, rows):
    return (rng.normal(size=(4, 3)) * 2,)


# All zeros, all equal, all negative, and far from 0 for what they span.
CHANNELS = np.array([[0.0, 0, 0], [5, 5, 5], [-1, -3, -2], [100, 101, 102]])
STRAIGHT_THROUGH = {"gradients": "the rounding counts as the identity; tests/lossfns/test_compression.py has the rule"}
FAKE_QUANTIZE = LossCase(
    lossfns.fake_quantize,
    kernels,
    oracles.fake_quantize,
    batched=False,
    variants=(
        {"bits": 3, "scale": 0.7},
        {"bits": 4},
        {"bits": 2, "signed": False, "axis": -1},
        {"bits": 8, "axis": 0, "scale_gradient": "plain"},
        {"bits": 4, "axis": 0, "symmetric": False},
        {"bits": 3, "scale": 0.7, "zero_point": 2, "signed": False},
        {"bits": 1, "axis": 1},
    ),
    sweep={"scale": (0.1, 0.2, 0.3)},
    hostile=lambda rng: {
        "no entry": ((zeros(0, 3),), {"bits": 4, "axis": 0}),
        "infinite entries": ((np.array([np.inf, -np.inf, 0]),), {"bits": 4, "scale": 1.0}),
        "no entry of one bit": ((zeros(0, 3),), {"bits": 1, "axis": 0}),
        "no entry, not symmetric": ((zeros(0, 3),), {"bits": 4, "axis": 1, "symmetric": False}),
        "zeros and constants, not symmetric": ((CHANNELS,), {"bits": 4, "axis": 0, "symmetric": False}),
        "zeros and constants, one bit": ((CHANNELS,), {"bits": 1, "axis": 0}),
        "zeros and constants, one level or the other": ((CHANNELS,), {"bits": 1, "axis": 0, "symmetric": False}),
        "a zero point at the end": ((CHANNELS,), {"bits": 4, "scale": 0.3, "zero_point": 7}),
        "a zero point beyond the end": ((CHANNELS,), {"bits": 4, "scale": 0.3, "zero_point": 8}),
        "a zero point each": (
            (CHANNELS,),
            {"bits": 4, "axis": 0, "scale": jnp.array([0.5, 1, 2, 0.1]), "zero_point": jnp.array([0, -8, 7, 3])},
        ),
    },
    limits={
        "what is on the grid stays": lambda x: (
            lossfns.fake_quantize(np.arange(-4, 4) * np.float32(0.5), bits=3, scale=0.5),
            np.arange(-4, 4) * 0.5,
        ),
        "many bits change little": lambda x: (
            lossfns.fake_quantize(x[0], bits=16) - x[0] > 2**-15 * np.abs(x[0]).max(),
            np.zeros(x[0].shape, bool),
        ),
    },
    bad_calls=(
        BadCall((zeros(3, dtype=np.int32),), ("x", "floating", "int32"), {"bits": 4}),
        BadCall((zeros(3),), ("bits", "between 1 and 16", "0"), {"bits": 0}),
        BadCall((zeros(3),), ("zero_point", "scale", "symmetric"), {"bits": 4, "zero_point": 1}),
        BadCall((zeros(3),), ("symmetric", "scale", "zero_point"), {"bits": 4, "scale": 1.0, "symmetric": False}),
        BadCall((zeros(3),), ("zero_point", "integer", "0.5"), {"bits": 4, "scale": 1.0, "zero_point": 0.5}),
        BadCall((zeros(3),), ("zero_point", "integer", "float"), {"bits": 4, "scale": 1.0, "zero_point": jnp.ones(())}),
        BadCall(
            (zeros(3, 2),),
            ("zero_point", "(2,)", "(3,)"),
            {"bits": 4, "axis": 1, "scale": 1.0, "zero_point": jnp.ones(3, int)},
        ),
        BadCall((zeros(3),), ("bits", "integer", "4.0"), {"bits": 4.0}),
        BadCall((zeros(3),), ("axis", "(3,)", "1"), {"bits": 4, "axis": 1}),
        BadCall((zeros(3, 2),), ("scale", "(2,)", "(3,)"), {"bits": 4, "axis": 1, "scale": jnp.ones(3)}),
        BadCall((zeros(3),), ("scale", "scalar", "(3,)"), {"bits": 4, "scale": jnp.ones(3)}),
        BadCall((zeros(3),), ("scale", "positive", "0"), {"bits": 4, "scale": 0}),
    ),
    unlike_differences={"scale": "the rounding counts as the identity"},
    skip=STRAIGHT_THROUGH,
)
KURTOSIS = LossCase(
    lossfns.kurtosis_penalty,
    parameters,
    oracles.kurtosis_penalty,
    flat="an array of one entry",
    batched=False,
    variants=({}, {"weight": 0.1, "target": 3.0}),
    sweep={"weight": (0.1, 0.2, 0.3), "target": (1.8, 2.0, 3.0)},
    hostile=lambda rng: {
        "an empty tree": (({},), {}),
        "a constant and another array": (({"a": zeros(3) + 5, "b": np.array([1.0, 2, 4])},), {}),
        "entries of 1e-15": (({"a": rng.normal(size=4) * 1e-15},), {}),
        "entries of 1e15": (({"a": rng.normal(size=4) * 1e15},), {}),
    },
    limits={"two values have 1": lambda x: (lossfns.kurtosis_penalty(np.array([5.0, 3, 5, 3]), target=1.0), 0.0)},
    bad_calls=(*WRONG_PARAMETERS, BadCall(({"kernel": zeros(2)},), ("target", "0"), {"target": 0})),
    # Fourth powers of rounded differences.
    ulps=64,
)
ENTROPY = LossCase(
    lossfns.entropy_of_weights,
    lambda rng, rows: (*parameters(rng, rows), np.array([-1.0, 0.0, 0.5, 2.0])),
    oracles.entropy_of_weights,
    batched=False,
    variants=({}, {"weight": 0.1, "sharpness": 5.0}),
    sweep={"weight": (0.1, 0.2, 0.3), "sharpness": (0.5, 1.0, 2.0)},
    hostile=lambda rng: {
        "one level": ((*parameters(rng, 1), zeros(1)), {}),
        "an empty tree": (({}, zeros(2)), {}),
        "hard": ((*parameters(rng, 1), np.array([-1.0, 1.0])), {"sharpness": 1e4}),
    },
    bad_calls=(
        BadCall(({"kernel": zeros(2, dtype=np.int32)}, zeros(3)), ("kernel", "floating", "int32")),
        BadCall(({"kernel": zeros(2)}, zeros(3, 1)), ("levels", "rank 1", "(3, 1)")),
        BadCall(({"kernel": zeros(2)}, zeros(0)), ("levels", "at least one", "(0,)")),
        BadCall(({"kernel": zeros(2)}, zeros(3)), ("sharpness", "0"), {"sharpness": 0}),
    ),
    # The mean square distance is magnified by the sharpness.
    condition=lambda kwargs: max(1.0, kwargs.get("sharpness", 1.0)),
    magnitudes=(1e-30, 1e15),  # squared distances from the levels overflow
)


CASES = {
    "entropy_of_weights": ENTROPY,
    "fake_quantize": FAKE_QUANTIZE,
    "kurtosis_penalty": KURTOSIS,
}
