"""Cases of `lossfns.reconstruction.likelihood`."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.reconstruction._shared import wrong_examples
from tests.oracles.reconstruction import likelihood as oracles


def posteriors(rng, rows):
    return (
        rng.normal(size=(rows, 2, 2)),
        rng.uniform(size=(rows, 2, 2)),
        rng.normal(size=(rows, 3)),
        rng.normal(size=(rows, 3)) / 2,
    )


def naive_beta_vae(x, t, mean, log_variance):
    fit = -t * jnp.log(jax.nn.sigmoid(x)) - (1 - t) * jnp.log(1 - jax.nn.sigmoid(x))
    return fit.sum((1, 2)) + (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(-1) / 2


def hostile_posteriors(rng):
    x, t, mean, log_variance = posteriors(rng, 6)
    wrong = t.copy()
    wrong[0, 0, 0], wrong[1, 1, 1], wrong[2, 0, 1] = -0.1, 1.5, np.nan
    sure = np.round(t)
    return {
        "inputs outside 0 .. 1": ((x, wrong, mean, log_variance), {}),
        "the same under a normal likelihood": ((x, 10 * t, mean, log_variance), {"likelihood": "gaussian"}),
        "sure and right": ((1e4 * (2 * sure - 1), sure, mean, log_variance), {}),
        "sure and wrong": ((-1e4 * (2 * sure - 1), sure, mean, log_variance), {}),
        "a posterior near the prior": ((x, t, 1e-4 * mean, 1e-4 * log_variance), {}),
        "variances of e^-80 and e^80": ((x, t, mean, 80 * np.sign(log_variance)), {}),
    }


BETA_VAE = LossCase(
    lossfns.beta_vae,
    posteriors,
    oracles.beta_vae,
    naive_beta_vae,
    variants=({}, {"beta": 4.0, "likelihood": "gaussian", "scale": 0.5}),
    sweep={"beta": (1.0, 4.0, 8.0), "scale": (0.1, 0.5, 1.0)},
    differentiable=(0, 2, 3),
    non_negative=True,
    hostile=hostile_posteriors,
    limits={
        "the prior as posterior costs nothing": lambda x: (
            lossfns.beta_vae(x[0], x[1], 0 * x[2], 0 * x[3]),
            lossfns.beta_vae(*x, beta=0.0),
        ),
        "half the squared error": lambda x: (
            lossfns.beta_vae(*x, beta=0.0, likelihood="gaussian") - 2 * math.log(2 * math.pi),
            2 * lossfns.denoising(x[0], x[1]),
        ),
    },
    outside={1: (-0.5, 1.5)},
    bad_calls=(
        *wrong_examples("reconstructions", "inputs", zeros(3, 2), zeros(3, 2)),
        BadCall((zeros(3, 4), zeros(3, 4), zeros(2, 5), zeros(2, 5)), ("mean", "(3, 4)", "(2, 5)")),
        BadCall((zeros(3, 4), zeros(3, 4), zeros(3), zeros(3)), ("mean", "[N, Z]", "(3,)")),
        BadCall((zeros(3, 4), zeros(3, 4), zeros(3, 5), zeros(3, 4)), ("log_variance", "(3, 5)", "(3, 4)")),
        BadCall((zeros(3, 4), zeros(3, 4), zeros(3, 5), zeros(3, 5)), ("beta", "at least 0", "-1"), {"beta": -1}),
        BadCall((zeros(3, 4), zeros(3, 4), zeros(3, 5), zeros(3, 5)), ("scale", "positive", "0"), {"scale": 0}),
        BadCall(
            (zeros(3, 4), zeros(3, 4), zeros(3, 5), zeros(3, 5)), ("likelihood", "poisson"), {"likelihood": "poisson"}
        ),
    ),
)


CASES = {
    "beta_vae": BETA_VAE,
}
