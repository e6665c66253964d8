"""Cases of `lossfns.joint_embedding.spreading`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.joint_embedding._shared import unit
from tests.oracles.joint_embedding import spreading as oracles


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
        "nearly equal rows": ((near,), {}),
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
        "hostile inputs": "rounding a projection of 1e4 loses its phase; tests/lossfns/test_joint_embedding.py",
    },
)


CASES = {
    "koleo": KOLEO,
    "sigreg": SIGREG,
}
