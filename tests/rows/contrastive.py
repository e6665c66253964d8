"""Rows of the contrastive losses."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import contrastive as oracles
from tests.rows import zeros


def two_views(rng, rows):
    view = rng.normal(size=(rows, 4))
    return view, view + 0.5 * rng.normal(size=(rows, 4))


def naive_nt_xent(view_a, view_b):
    z = jnp.concatenate([view_a, view_b])
    z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    scores = z @ z.T / 0.5
    n = len(view_a)
    positives = jnp.tile(jnp.diagonal(scores[:n, n:]), 2)
    others = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, scores)
    return (jnp.log(jnp.exp(others).sum(-1)) - positives).reshape(2, n).mean(0)


def hostile_views(rng):
    view_a, view_b = two_views(rng, 6)
    poles = np.sign(view_a[:, :1]) * np.eye(4)[:1]
    zero_row = np.concatenate([zeros(1, 4), view_a[1:]])
    return {
        "zero rows in both views": ((zero_row, zero_row), {}),
        "entries of 1e25": ((view_a * 1e25, view_b * 1e25), {}),
        "entries of 1e-25": ((view_a * 1e-25, view_b * 1e-25), {}),
        "cosines of +-1 at temperature 0.01": ((poles, poles), {"temperature": 0.01}),
        "opposite views at temperature 0.01": ((poles, -poles), {"temperature": 0.01}),
    }


def inverse_temperature(kwargs):
    """A rounding of a cosine is divided by the temperature."""
    return max(1.0, 1 / kwargs.get("temperature", 0.5))


NT_XENT = LossCase(
    lossfns.nt_xent,
    two_views,
    oracles.nt_xent,
    naive_nt_xent,
    variants=({}, {"temperature": 0.1, "block_size": 4}),
    sweep={"temperature": (0.1, 0.2, 0.5)},
    batch_coupled=True,
    condition=inverse_temperature,
    hostile=hostile_views,
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5)), ("(3, 4)", "(3, 5)")),
        BadCall((zeros(3), zeros(3)), ("rank 2", "rank 1", "(3,)")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), ("view_a", "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, 4)), ("temperature", "positive", "0"), {"temperature": 0}),
        BadCall((zeros(3, 4), zeros(3, 4)), ("block_size", "at least 1", "0"), {"block_size": 0}),
    ),
)


ROWS = {
    "nt_xent": NT_XENT,
}
