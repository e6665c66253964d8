"""Cases of `lossfns.contrastive.alignment`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import two_views, zeros
from tests.cases.contrastive._shared import hostile_views, unit
from tests.oracles.contrastive import alignment as oracles


def naive_alignment(view_a, view_b):
    return jnp.square(unit(view_a) - unit(view_b)).sum(-1)


ALIGNMENT = LossCase(
    lossfns.alignment,
    two_views,
    oracles.alignment,
    naive_alignment,
    variants=({}, {"alpha": 1.0}),
    sweep={"alpha": (1.0, 2.0, 3.0)},
    scale_invariant=(0, 1),
    symmetric=((0, 1),),
    non_negative=True,
    hostile=lambda rng: {
        **hostile_views(rng, alpha=4.0),
        "equal views, the distance itself": ((two_views(rng, 6)[0],) * 2, {"alpha": 1.0}),
    },
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5)), ("(3, 4)", "(3, 5)")),
        BadCall((zeros(3), zeros(3)), ("rank 2", "rank 1", "(3,)")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), ("view_a", "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, 4)), ("alpha", "positive", "0"), {"alpha": 0}),
    ),
)


def naive_uniformity(embeddings):
    u, n = unit(embeddings), len(embeddings)
    powers = jnp.exp(-2 * jnp.square(u[:, None] - u[None]).sum(-1))
    return jnp.full(n, jnp.log(jnp.where(jnp.eye(n, dtype=bool), 0, powers).sum() / (n * (n - 1))))


UNIFORMITY = LossCase(
    lossfns.uniformity,
    lambda rng, rows: two_views(rng, rows)[:1],
    oracles.uniformity,
    naive_uniformity,
    variants=({}, {"t": 0.5, "block_size": 4}),
    sweep={"t": (0.5, 1.0, 2.0)},
    condition=lambda kwargs: max(1.0, 2 * kwargs.get("t", 2.0)),  # which multiplies a squared distance
    batch_coupled=True,
    modes=("rev",),
    scale_invariant=(0,),
    hostile=lambda rng: {
        "opposite poles at t = 100": (
            (np.eye(4)[:1] * np.array([[1.0], [-1.0], [1.0], [-1.0], [1.0], [1.0]]),),
            {"t": 100.0},
        ),
        "two opposite": ((np.eye(4)[[0, 0]] * np.array([[1.0], [-1.0]]),), {"t": 100.0}),
    },
    bad_calls=(
        BadCall((zeros(3),), ("embeddings", "rank 2", "rank 1")),
        BadCall((zeros(3, 4, dtype=np.int32),), ("embeddings", "floating", "int32")),
        BadCall((zeros(3, 4),), ("t", "positive", "0"), {"t": 0}),
        BadCall((zeros(3, 4),), ("block_size", "at least 1", "0"), {"block_size": 0}),
    ),
)


CASES = {
    "alignment": ALIGNMENT,
    "uniformity": UNIFORMITY,
}
