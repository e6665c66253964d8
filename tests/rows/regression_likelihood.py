"""Rows of the errors without a unit, of the likelihoods and of the general robust loss."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import regression as oracles
from tests.rows import zeros
from tests.rows.regression import WRONG_PREDICTIONS, predicted_rows

INF = np.inf
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


def predicted_densities(rng, rows):
    predictions, targets = predicted_rows(rng, rows)
    return predictions, rng.normal(size=predictions.shape), targets


GAUSSIAN = LossCase(
    lossfns.gaussian_nll,
    predicted_densities,
    oracles.gaussian_nll,
    lambda mean, s, y: 0.5 * (jnp.log(jnp.exp(s)) + (mean - y) ** 2 / jnp.exp(s)),
    variants=({}, {"full": True}),
    sweep={"beta": (0.25, 0.5, 1.0)},
    element_masks=True,
    symmetric=((0, 2),),
    limits={
        "variance 1": lambda inputs: (
            lossfns.gaussian_nll(inputs[0], 0 * inputs[1], inputs[2]),
            (inputs[0] - inputs[2]) ** 2 / 2,
        ),
        "weighted by the variance": lambda inputs: (
            lossfns.gaussian_nll(*inputs, beta=0.5),
            oracles.gaussian_nll(*inputs, beta=0.5),
        ),
    },
    hostile=lambda rng: {
        "no error, nearly no variance": ((zeros(3), np.array([-200.0, -1e4, 200.0]), zeros(3)), {}),
        "small and large variances": ((np.array([1.0, 1.0]), np.array([-60.0, 60.0]), zeros(2)), {}),
    },
    bad_calls=(
        BadCall((zeros(3, 1), zeros(3, 1), zeros(3)), ("targets", "(3, 1)", "(3,)")),
        BadCall((zeros(3), zeros(3, dtype=np.int32), zeros(3)), ("log_variances", "floating", "int32")),
        BadCall((zeros(3), zeros(3), zeros(3)), ("beta", "between 0 and 1", "2"), {"beta": 2}),
        BadCall((zeros(3), zeros(3), zeros(3)), ("full", "True or False", "1"), {"full": 1}),
    ),
)


def counted_rows(rng, rows):
    signs = rng.choice([-1.0, 1.0], size=(rows, 3))
    return signs * rng.uniform(0.3, 1, (rows, 3)), 1.0 + rng.integers(0, 4, (rows, 3))


MANY = np.array([9.0, 11.0, 1e4, 1e5, 1e6])
POISSON = LossCase(
    lossfns.poisson_nll,
    counted_rows,
    oracles.poisson_nll,
    lambda x, y: jnp.exp(x) - y * x,
    variants=({}, {"full": True}),
    element_masks=True,
    hostile=lambda rng: {
        "negative counts": ((zeros(2), np.array([-1.0, 1.0])), {}),
        "a rate of 0": ((np.array([-INF, -INF, 0.0]), np.array([0.0, 2.0, 0.0])), {}),
        "many counts": ((np.log(MANY), MANY), {"full": True}),
        "many counts where few were expected": ((np.zeros(5), MANY), {"full": True}),
    },
    outside={1: (-1.0,)},
    bad_calls=(
        BadCall((zeros(3, 1), zeros(3)), ("targets", "(3, 1)", "(3,)")),
        BadCall((zeros(3, dtype=np.int32), zeros(3)), ("rates", "floating", "int32")),
        BadCall((zeros(3), zeros(3)), ("full", "True or False", "0.5"), {"full": 0.5}),
        BadCall((zeros(3), zeros(3)), ("log_rate", "True or False", "1"), {"log_rate": 1}),
    ),
)


def poisson_of_rates(rates, targets, **options):
    return lossfns.poisson_nll(rates, targets, log_rate=False, **options)


def slopes_at_nothing(inputs):
    """The count 0 costs the rate itself, from 0 on."""
    slopes = [
        jax.grad(lambda rates, full=full: poisson_of_rates(rates, jnp.zeros(2), full=full).sum())(jnp.zeros(2))
        for full in (False, True)
    ]
    return jnp.stack(slopes), np.ones((2, 2))


POISSON_OF_RATES = LossCase(
    poisson_of_rates,
    lambda rng, rows: (np.exp(counted_rows(rng, rows)[0]), counted_rows(rng, rows)[1]),
    lambda *args, **options: oracles.poisson_nll(*args, log_rate=False, **options),
    lambda rates, y: rates - y * jnp.log(rates),
    name="poisson_nll of rates",
    variants=({}, {"full": True}),
    element_masks=True,
    free=(),
    hostile=lambda rng: {
        "a rate of 0": ((np.array([0.0, 0.0, 1.0]), np.array([0.0, 2.0, 0.0])), {}),
        "a rate of 0, full": ((np.array([0.0, 0.0, 0.0]), np.array([0.0, 2.0, 20.0])), {"full": True}),
        "negative rates": ((np.array([-1.0, -1.0, -1.0]), np.array([0.0, 2.0, 20.0])), {"full": True}),
        "many counts": ((MANY, MANY), {"full": True}),
        "many counts near the rate": ((1.001 * MANY, MANY), {"full": True}),
        "many counts far from the rate": ((3 * MANY, MANY), {"full": True}),
    },
    limits={
        "the same as of logarithms": lambda inputs: (
            poisson_of_rates(*map(jnp.asarray, inputs), full=True),
            lossfns.poisson_nll(jnp.log(inputs[0]), jnp.asarray(inputs[1]), full=True),
        ),
        "slope 1 at nothing": slopes_at_nothing,
    },
    bad_calls=POISSON.bad_calls[:2],
)


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
            oracles.gaussian_nll(inputs[0], np.full_like(inputs[0], 2 * np.log(0.7)), 0 * inputs[0], full=True),
        ),
        "Cauchy": lambda inputs: (
            lossfns.adaptive_barron(*inputs, alpha=0.0),
            np.log(np.pi * np.sqrt(2) * (1 + inputs[0] ** 2 / 2)),
        ),
    },
    bad_calls=(*WRONG_ERRORS, BadCall((zeros(3),), ("alpha", "at least 0", "-1"), {"alpha": -1})),
)


ROWS = {
    "adaptive_barron": SCALAR_ADAPTIVE,
    "adaptive_barron with learned options": ADAPTIVE,
    "barron": BARRON,
    "barron with learned options": LEARNED,
    "cosine_distance": COSINE,
    "gaussian_nll": GAUSSIAN,
    "log_squared_error": LOG_SQUARED,
    "poisson_nll": POISSON,
    "poisson_nll of rates": POISSON_OF_RATES,
}
