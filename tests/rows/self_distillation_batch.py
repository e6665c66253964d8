"""Rows of the losses between views that depend on the whole batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import self_distillation as oracles
from tests.rows import zeros
from tests.rows.self_distillation import PROTOTYPES, unit, wrong_pairs


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
        "features alike": ((a[:, [0, 0, 0]], b), {}),
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


def naive_w_mse(a, b):
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
        "features alike": ((a[:, [0, 0]], b), {}),
        "features alike and an epsilon": ((a[:, [0, 0]], b), drawn),
        "rows alike and an epsilon": ((a[[0] * 6], b[[1] * 6]), drawn),
        "one row and an epsilon": ((a[:1], b[:1]), drawn),
        "zeros and an epsilon": ((0 * a, 0 * b), drawn),
        "squared differences": ((a, b), {"normalize": False}),
    }


# Whitening multiplies roundings by the condition of the covariance, here below 30.
WMSE = LossCase(
    lossfns.wmse,
    functools.partial(two_views, features=2),
    oracles.wmse,
    naive_w_mse,
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


def naive_koleo(x):
    u = unit(x)
    squares = ((u[:, None] - u[None]) ** 2).sum(-1)
    others = jnp.where(jnp.eye(len(u), dtype=bool), jnp.inf, squares)
    return -jnp.log(jnp.sqrt(others.min(-1)))


def hostile_neighbours(rng):
    x = rng.normal(size=(6, 4))
    near = np.concatenate([x[:1], x[:1] * (1 + 1e-3), x[:4]])
    near[1, 0] += 1e-3
    return {
        "equal rows without an epsilon": ((x[[0, 0, 1, 2, 3, 4]],), {"eps": 0.0}),
        "neighbours of equal distance": ((np.concatenate([np.eye(4), -np.eye(4)[:2]]),), {}),
        "entries of 1e25": ((1e25 * x,), {}),
        "two zero rows": ((np.where(np.arange(6)[:, None] < 2, 0, x),), {}),
        "a row nearly alike": ((near,), {}),
    }


KOLEO = LossCase(
    lossfns.koleo,
    lambda rng, rows: (rng.normal(size=(rows, 4)),),
    oracles.koleo,
    naive_koleo,
    variants=({}, {"eps": 0.1}),
    sweep={"eps": (1e-3, 1e-2, 1e-1)},
    batch_coupled=True,
    scale_invariant=(0,),
    hostile=hostile_neighbours,
    bad_calls=(
        BadCall((zeros(3),), ("embeddings", "rank 2", "(3,)")),
        BadCall((zeros(3, 0),), ("at least one feature", "(3, 0)")),
        BadCall((zeros(3, 4, dtype=np.int32),), ("embeddings", "floating", "int32")),
        BadCall((zeros(3, 4),), ("eps", "at least 0", "-1"), {"eps": -1}),
    ),
)


DIRECTIONS = np.array([[1.0, -2.0, 0.5], [0.5, 1.0, 0.0], [0.0, 3.0, -1.0]], np.float32)


def sliced_sigreg(embeddings, **kwargs):
    return lossfns.sigreg(embeddings, DIRECTIONS, **kwargs)


def naive_sigreg(x):
    t = jnp.linspace(0, 3, 17, dtype=x.dtype)
    projected = (x @ (DIRECTIONS / np.linalg.norm(DIRECTIONS, axis=0)).astype(x.dtype))[..., None] * t[None, None]
    window = jnp.exp(-t * t / 2)
    errors = (jnp.cos(projected).mean(0) - window[None]) ** 2 + jnp.sin(projected).mean(0) ** 2
    weights = window * (2 * 3 / 16) * jnp.where((jnp.arange(17) % 16) == 0, 0.5, 1).astype(x.dtype)
    return jnp.full(len(x), (len(x) * (errors @ weights)).mean())


# The statistic is N times a mean of squares, and angles are up to ten.
SIGREG = LossCase(
    sliced_sigreg,
    lambda rng, rows: (rng.normal(size=(rows, 3)),),
    lambda embeddings, **kwargs: oracles.sigreg(embeddings, DIRECTIONS, **kwargs),
    naive_sigreg,
    variants=({}, {"knots": 5, "largest_frequency": 5.0}),
    sweep={"largest_frequency": (3.0, 4.0, 5.0)},
    batch_coupled=True,
    condition=lambda kwargs: 4.0,
    non_negative=True,
    bad_calls=(
        BadCall((zeros(3),), ("embeddings", "rank 2", "(3,)")),
        BadCall((zeros(4, 2),), ("directions", "(2, directions)", "(3, 3)")),
        BadCall((zeros(4, 3, dtype=np.int32),), ("embeddings", "floating", "int32")),
        BadCall((zeros(4, 3),), ("knots", "at least 2", "1"), {"knots": 1}),
        BadCall((zeros(4, 3),), ("largest_frequency", "positive", "0"), {"largest_frequency": 0}),
    ),
    skip={
        "hostile inputs": "rounding a projection of 1e4 loses its phase; tests/lossfns/test_self_distillation.py",
    },
)


def scores(rng, rows):
    return rng.uniform(-0.3, 0.3, size=(rows, PROTOTYPES)), rng.uniform(-0.3, 0.3, size=(rows, PROTOTYPES))


PICK = np.array([1.0, -2.0, 3.0, 0.5, 0.25], np.float32)


def summed_codes(scores, **kwargs):
    """One number for each row: its code times fixed weights."""
    codes = lossfns.sinkhorn(scores, **kwargs)
    return (codes * PICK[None, : codes.shape[1]]).sum(-1, dtype=codes.dtype)


WRONG_SCORES = (
    BadCall((zeros(5), zeros(5)), ("rank 2", "(5,)")),
    BadCall((zeros(3, 0), zeros(3, 0)), ("at least one prototype", "(3, 0)")),
    BadCall((zeros(3, 5), zeros(3, 4)), ("(3, 5)", "(3, 4)")),
    BadCall((zeros(3, 5, dtype=np.int32), zeros(3, 5)), ("floating", "int32")),
)
SINKHORN = LossCase(
    summed_codes,
    lambda rng, rows: scores(rng, rows)[:1],
    lambda scores, **kwargs: oracles.sinkhorn(scores, **kwargs) @ np.float64(PICK),
    variants=({}, {"epsilon": 0.5, "iterations": 7}),
    sweep={"epsilon": (0.05, 0.1, 0.2)},
    differentiable=(),
    batch_coupled=True,
    condition=lambda kwargs: 1 / kwargs.get("epsilon", 0.05),
    limits={
        "rows sum to one": lambda x: (lossfns.sinkhorn(*x).sum(-1), np.ones(6)),
        "columns sum to N over K": lambda x: (
            lossfns.sinkhorn(*x, epsilon=0.2, iterations=100).sum(0),
            np.full(PROTOTYPES, 6 / PROTOTYPES),
        ),
        "no round is the softmax": lambda x: (
            lossfns.sinkhorn(*x, epsilon=0.2, iterations=0),
            jax.nn.softmax(x[0] / 0.2, -1),
        ),
    },
    bad_calls=(
        *(BadCall(call.args[:1], call.words) for call in (WRONG_SCORES[0], WRONG_SCORES[1], WRONG_SCORES[3])),
        BadCall((zeros(3, 5),), ("epsilon", "positive", "0"), {"epsilon": 0}),
        BadCall((zeros(3, 5),), ("iterations", "at least 0", "-1"), {"iterations": -1}),
        BadCall((zeros(3, 5),), ("iterations", "integer", "2.5"), {"iterations": 2.5}),
    ),
)


def naive_swav(a, b):
    def codes(x):
        q = jnp.exp(x / 0.05)
        for _ in range(3):
            q = q / q.sum(0)[None]
            q = q / q.sum(1, keepdims=True)
        return jax.lax.stop_gradient(q)

    p, r = (jnp.log(jax.nn.softmax(x / 0.1, -1)) for x in (a, b))
    return -((codes(b) * p).sum(-1) + (codes(a) * r).sum(-1)) / 2


def with_constant_codes(a, b):
    """SwAV by sinkhorn's codes and soft cross-entropies."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    costs = [lossfns.soft_cross_entropy(x / 0.1, lossfns.sinkhorn(y)) for x, y in ((a, b), (b, a))]
    return (costs[0] + costs[1]) / 2


SWAV = LossCase(
    lossfns.swav,
    scores,
    oracles.swav,
    naive_swav,
    unlike_differences={"epsilon": "the codes are constants"},
    variants=({}, {"temperature": 0.5, "epsilon": 0.2}),
    hostile=lambda rng: {"one round": (scores(rng, 6), {"iterations": 1})},
    sweep={"temperature": (0.1, 0.2, 0.3), "epsilon": (0.05, 0.1, 0.2)},
    batch_coupled=True,
    condition=lambda kwargs: 1 / min(kwargs.get("epsilon", 0.05), kwargs.get("temperature", 0.1)),
    symmetric=((0, 1),),
    non_negative=True,
    limits={
        "sinkhorn's codes and soft cross-entropies": lambda x: (lossfns.swav(*x), with_constant_codes(*x)),
    },
    bad_calls=(
        *WRONG_SCORES,
        BadCall((zeros(3, 5), zeros(3, 5)), ("temperature", "positive", "0"), {"temperature": 0}),
        BadCall((zeros(3, 5), zeros(3, 5)), ("iterations", "integer", "True"), {"iterations": True}),
    ),
    skip={"gradients": "its codes are constants, so the gradient is not the slope; test_self_distillation.py has it"},
)


def naive_msn(a, b):
    p, q = jax.nn.softmax(a / 0.1, -1), jax.lax.stop_gradient(jax.nn.softmax(b / 0.025, -1))
    mean = p.mean(0)
    return -(q * jnp.log(p)).sum(-1) + jnp.log(float(p.shape[1])) + (mean * jnp.log(mean)).sum()


MSN = LossCase(
    lossfns.msn,
    scores,
    oracles.msn,
    naive_msn,
    nan_stays={1: "without rounds the target of a row is its own"},
    variants=({}, {"entropy_weight": 5.0, "sinkhorn_iterations": 2, "target_temperature": 0.1}),
    sweep={
        "temperature": (0.1, 0.2, 0.3),
        "target_temperature": (0.02, 0.03, 0.04),
        "entropy_weight": (1.0, 2.0, 5.0),
    },
    batch_coupled=True,
    differentiable=(0,),
    condition=lambda kwargs: 1 / min(kwargs.get("temperature", 0.1), kwargs.get("target_temperature", 0.025)),
    shift_invariant=(0, 1),
    non_negative=True,
    limits={
        "DINO without the entropy": lambda x: (
            lossfns.msn(*x, entropy_weight=0.0),
            lossfns.dino(*x, teacher_temperature=0.025),
        ),
    },
    bad_calls=(
        *WRONG_SCORES,
        BadCall((zeros(3, 5), zeros(3, 5)), ("target_temperature", "positive", "0"), {"target_temperature": 0}),
        BadCall((zeros(3, 5), zeros(3, 5)), ("entropy_weight", "at least 0", "-1"), {"entropy_weight": -1}),
    ),
)


ROWS = {
    "barlow_twins": BARLOW_TWINS,
    "koleo": KOLEO,
    "msn": MSN,
    "sigreg": SIGREG,
    "sinkhorn": SINKHORN,
    "swav": SWAV,
    "vicreg": VICREG,
    "wmse": WMSE,
}
