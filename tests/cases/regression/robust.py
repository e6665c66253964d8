"""Cases of `lossfns.regression.robust`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.regression._shared import INF
from tests.oracles.regression import likelihood as likelihood_oracles
from tests.oracles.regression import robust as oracles


def naive_barron(x, alpha=1.0, scale=1.0):
    b = jnp.abs(alpha - 2)
    return b / alpha * (((x / scale) ** 2 / b + 1) ** (alpha / 2) - 1)


WRONG_ERRORS = (
    BadCall((zeros(3, dtype=np.int32),), ("errors", "floating", "int32")),
    BadCall((zeros(3),), ("scale", "positive", "0"), {"scale": 0}),
    BadCall((zeros(3),), ("alpha", "(2,)", "(3,)"), {"alpha": zeros(2)}),
)
BARRON = LossCase(
    lossfns.barron,
    lambda rng, rows: (2 * rng.normal(size=(rows, 3)),),
    oracles.barron,
    naive_barron,
    variants=({}, {"alpha": -INF, "scale": 0.7}),
    sweep={"alpha": (-INF, 0.0, 2.0), "scale": (0.5, 1.0, 2.0)},
    element_masks=True,
    non_negative=True,
    limits={
        "alpha 2": lambda inputs: (lossfns.barron(*inputs, alpha=2.0), inputs[0] ** 2 / 2),
        "alpha 1": lambda inputs: (
            lossfns.barron(*inputs, scale=0.5) / 2 + 0.5,
            lossfns.charbonnier(*inputs, 0 * inputs[0], epsilon=0.5),
        ),
        "alpha -2": lambda inputs: (
            lossfns.barron(*inputs, alpha=-2.0),
            2 * inputs[0] ** 2 / (inputs[0] ** 2 + 4),
        ),
        "alpha to 0": lambda inputs: (lossfns.barron(*inputs, alpha=1e-9), lossfns.barron(*inputs, alpha=0.0)),
        "alpha to -inf": lambda inputs: (lossfns.barron(*inputs, alpha=-1e9), lossfns.barron(*inputs, alpha=-INF)),
        "alpha to inf": lambda inputs: (lossfns.barron(*inputs, alpha=1e9), lossfns.barron(*inputs, alpha=INF)),
    },
    hostile=lambda rng: {
        "huge errors, alpha 1": ((np.array([1e25, -1e25, 1e-25]),), {}),
        "huge errors, alpha -inf": ((np.array([1e25, -1e25, 1e-25]),), {"alpha": -INF}),
    },
    bad_calls=(*WRONG_ERRORS, BadCall((zeros(3),), ("alpha", "nan"), {"alpha": np.nan})),
)


def learned_barron(errors, alpha, scale, *, where=None):
    return lossfns.barron(errors, alpha=alpha, scale=scale, where=where)


def learned_adaptive_barron(errors, alpha, scale, *, where=None):
    return lossfns.adaptive_barron(errors, alpha=alpha, scale=scale, where=where)


def learned_rows(lowest):
    def rows_of(rng, rows):
        shape = (rows, 3)
        return 2 * rng.normal(size=shape), rng.uniform(lowest, 1.8, shape), rng.uniform(0.5, 2, shape)

    return rows_of


def hostile_shapes(rng):
    errors, shapes = np.meshgrid([0.0, 1.0, 30.0], [0.0, 1e-4, 1.49, 1.51, 2.0, 2.6])
    near = np.meshgrid([1e-3, 1.0, 300.0], [-50.0, -1e-4, 0.5, 1.9, 1.999, 2.1])
    return {"shapes and errors": ((errors, shapes, np.ones((6, 3))), {}), "more": ((*near, np.ones((6, 3))), {})}


SAME = "the row of the loss itself has it; here its options are arrays, nothing else"
LEARNED = LossCase(
    learned_barron,
    learned_rows(-3),
    oracles.barron,
    naive_barron,
    element_masks=True,
    hostile=hostile_shapes,
    skip={"devices = one device": SAME, "vmap = loop": SAME},
    magnitudes=(1e-30, 1e12),  # the slope of a power by its exponent overflows before the power does
    # Far out alpha is an exponent: it and its logarithm come at up to 4 times their own rounding.
    condition=lambda kwargs: 4.0,
)
ADAPTIVE = LossCase(
    learned_adaptive_barron,
    learned_rows(0.1),
    oracles.adaptive_barron,
    element_masks=True,
    hostile=lambda rng: (
        hostile_shapes(rng) | {"no distribution": ((zeros(3), np.array([-0.5, 1, 2]), np.array([1.0, 1, -1])), {})}
    ),
    skip={"devices = one device": SAME, "vmap = loop": SAME},
    magnitudes=(1e-30, 1e12),  # the slope of a power by its exponent overflows before the power does
    condition=lambda kwargs: 4.0,
)
SCALAR_ADAPTIVE = LossCase(
    lossfns.adaptive_barron,
    lambda rng, rows: (2 * rng.normal(size=(rows, 3)),),
    oracles.adaptive_barron,
    variants=({}, {"alpha": 0.0, "scale": 0.7}),
    sweep={"alpha": (0.5, 1.0, 2.0), "scale": (0.5, 1.0, 2.0)},
    element_masks=True,
    limits={
        "normal": lambda inputs: (
            lossfns.adaptive_barron(*inputs, alpha=2.0, scale=0.7),
            likelihood_oracles.gaussian_nll(
                inputs[0], np.full_like(inputs[0], 2 * np.log(0.7)), 0 * inputs[0], full=True
            ),
        ),
        "Cauchy": lambda inputs: (
            lossfns.adaptive_barron(*inputs, alpha=0.0),
            np.log(np.pi * np.sqrt(2) * (1 + inputs[0] ** 2 / 2)),
        ),
    },
    bad_calls=(*WRONG_ERRORS, BadCall((zeros(3),), ("alpha", "at least 0", "-1"), {"alpha": -1})),
)


CASES = {
    "adaptive_barron": SCALAR_ADAPTIVE,
    "adaptive_barron with learned options": ADAPTIVE,
    "barron": BARRON,
    "barron with learned options": LEARNED,
}
