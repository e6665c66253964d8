"""Cases of `lossfns.regression.likelihood`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.regression._shared import INF, predicted_rows
from tests.oracles.regression import likelihood as oracles


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


CASES = {
    "gaussian_nll": GAUSSIAN,
    "poisson_nll": POISSON,
    "poisson_nll of rates": POISSON_OF_RATES,
}
