"""Cases of `lossfns.joint_embedding.barlow_vicreg`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.joint_embedding._shared import unit, wrong_pairs
from tests.oracles.joint_embedding import barlow_vicreg as oracles


def two_views(rng, rows, features=3):
    view = rng.normal(size=(rows, features))
    return view, view + 0.5 * rng.normal(size=(rows, features))


WRONG_VIEWS = (
    *wrong_pairs("view_a", "view_b"),
    BadCall((zeros(3), zeros(3)), ("view_a", "rank 2", "rank 1", "(3,)")),
    BadCall((zeros(3, 0), zeros(3, 0)), ("at least one feature", "(3, 0)")),
)


def hostile_views(rng):
    a, b = two_views(rng, 6)
    flat = np.where(np.arange(3) == 1, 0.3, a)
    grid = np.round(a * 64) / 64, np.round(b * 64) / 64
    return {
        "equal views": ((a, a), {}),
        "opposite views": ((a, -a), {}),
        "a feature that does not vary": ((flat, b), {}),
        "equal features": ((a[:, [0, 0, 0]], b), {}),
        "both + 1e3": ((grid[0] + 1e3, grid[1] + 1e3), {}),
    }


def correlations(a, b, eps):
    a, b = ((x - x.mean(0)[None]) / jnp.sqrt(x.var(0) + jnp.asarray(eps, x.dtype))[None] for x in (a, b))
    return a.T @ b / len(a)


def naive_barlow_twins(a, b):
    c = correlations(a, b, 1e-5)
    eye = jnp.eye(len(c), dtype=bool)
    return jnp.full(len(a), jnp.where(eye, (1 - c) ** 2, 0.0051 * c * c).sum())


# The deviations are divided by the standard deviation, which is several times smaller than the entries.
BARLOW_TWINS = LossCase(
    lossfns.barlow_twins,
    two_views,
    oracles.barlow_twins,
    naive_barlow_twins,
    variants=({}, {"redundancy_weight": 0.5, "eps": 0.1}),
    sweep={"redundancy_weight": (0.1, 0.2, 0.3), "eps": (1e-5, 1e-4, 1e-3)},
    batch_coupled=True,
    symmetric=((0, 1),),
    non_negative=True,
    hostile=hostile_views,
    condition=lambda kwargs: 4.0,
    limits={
        "scale does not matter without an epsilon": lambda x: (
            lossfns.barlow_twins(1e-4 * x[0], 1e4 * x[1], eps=0.0),
            lossfns.barlow_twins(*x, eps=0.0),
        ),
        "one feature with itself costs nothing": lambda x: (
            lossfns.barlow_twins(x[0][:, :1], x[0][:, :1], eps=0.0),
            np.zeros(6),
        ),
    },
    bad_calls=(
        *WRONG_VIEWS,
        BadCall((zeros(3, 4), zeros(3, 4)), ("redundancy_weight", "at least 0", "-1"), {"redundancy_weight": -1}),
        BadCall((zeros(3, 4), zeros(3, 4)), ("eps", "at least 0", "-1"), {"eps": -1}),
    ),
    magnitudes=(1e-30, 1e15),  # variances of larger entries overflow
)


def naive_vicreg(a, b):
    n, d = a.shape
    value = 25 * jnp.square(a - b).mean(-1)
    for x in (a, b):
        x = x - x.mean(0)[None]
        cov = x.T @ x / (n - 1)
        std = jnp.sqrt(x.var(0, ddof=1) + 0.0001)
        value += 25 * jax.nn.relu(1 - std).mean() / 2 + (cov**2).sum() / d - (jnp.diagonal(cov) ** 2).sum() / d
    return value


# Weights of 25 multiply the roundings of terms of order one.
VICREG = LossCase(
    lossfns.vicreg,
    two_views,
    oracles.vicreg,
    naive_vicreg,
    variants=({}, {"variance_weight": 2.0, "covariance_weight": 3.0, "target_deviation": 2.0, "eps": 0.01}),
    sweep={
        "invariance_weight": (1.0, 10.0, 25.0),
        "variance_weight": (1.0, 10.0, 25.0),
        "covariance_weight": (1.0, 10.0, 25.0),
        "target_deviation": (1.0, 2.0, 3.0),
        "eps": (1e-4, 1e-3, 1e-2),
    },
    batch_coupled=True,
    smooth=False,
    symmetric=((0, 1),),
    non_negative=True,
    hostile=hostile_views,
    condition=lambda kwargs: 25.0,
    limits={
        "the invariance alone": lambda x: (
            lossfns.vicreg(*x, variance_weight=0.0, covariance_weight=0.0, invariance_weight=3.0),
            ((x[0] - x[1]) ** 2).sum(-1),
        ),
        "the hinge at rest": lambda x: (
            lossfns.vicreg(10 * x[0], 10 * x[0], covariance_weight=0.0),
            np.zeros(6),
        ),
    },
    bad_calls=(
        *WRONG_VIEWS,
        BadCall((zeros(3, 4), zeros(3, 4)), ("variance_weight", "at least 0", "-1"), {"variance_weight": -1}),
        BadCall((zeros(3, 4), zeros(3, 4)), ("eps", "at least 0", "-1"), {"eps": -1}),
    ),
)


def naive_wmse(a, b):
    def white(x):
        x = x - x.mean(0)[None]
        factor = jnp.linalg.cholesky((x.T @ x / (len(x) - 1)).astype(jnp.float32)).astype(x.dtype)
        return unit(jnp.linalg.solve(factor.astype(jnp.float32), x.T.astype(jnp.float32)).T.astype(x.dtype))

    return 2 - 2 * (white(a) * white(b)).sum(-1)


def hostile_white(rng):
    """Singular covariances are NaN but for an epsilon."""
    a, b = two_views(rng, 6, 2)
    drawn = {"eps": 0.1}
    return {
        "equal views": ((a, a), {}),
        "both + 1e3": ((np.round(a * 64) / 64 + 1e3, np.round(b * 64) / 64 + 1e3), {}),
        "equal features": ((a[:, [0, 0]], b), {}),
        "equal features and an epsilon": ((a[:, [0, 0]], b), drawn),
        "equal rows and an epsilon": ((a[[0] * 6], b[[1] * 6]), drawn),
        "one row and an epsilon": ((a[:1], b[:1]), drawn),
        "zeros and an epsilon": ((0 * a, 0 * b), drawn),
        "squared differences": ((a, b), {"normalize": False}),
    }


# Whitening multiplies roundings by the condition of the covariance, here below 30.
WMSE = LossCase(
    lossfns.wmse,
    functools.partial(two_views, features=2),
    oracles.wmse,
    naive_wmse,
    sweep={"eps": (0.1, 0.2, 0.3)},
    batch_coupled=True,
    rows=8,
    condition=lambda kwargs: 30.0,
    scale_invariant=(0, 1),
    symmetric=((0, 1),),
    non_negative=True,
    hostile=hostile_white,
    limits={
        "white views are equal under scale and shift": lambda x: (lossfns.wmse(x[0], 3 * x[0] + 1), np.zeros(8)),
    },
    bad_calls=(
        *WRONG_VIEWS,
        BadCall((zeros(3, 4), zeros(3, 4)), ("eps", "between 0 and 1", "2"), {"eps": 2}),
        BadCall((zeros(3, 4), zeros(3, 4)), ("normalize", "True or False", "1"), {"normalize": 1}),
    ),
    magnitudes=(1e-15, 1e15),  # covariances of others overflow or underflow
)


CASES = {
    "barlow_twins": BARLOW_TWINS,
    "vicreg": VICREG,
    "wmse": WMSE,
}
