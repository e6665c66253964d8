"""Cases of `lossfns.contrastive.triplet`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import two_views, zeros
from tests.cases.contrastive._shared import bad_labelled, hostile_classes, labelled
from tests.oracles.contrastive import triplet as oracles

# A value is a difference of distances, each of up to ten units, to a margin of order one.
DISTANCES = {"condition": lambda kwargs: 8.0, "smooth": False, "non_negative": True}


def triples(rng, rows):
    a, p = two_views(rng, rows)
    return a, p, a + 0.7 * rng.normal(size=(rows, 4))


def naive_triplet(a, p, n):
    return jax.nn.relu(1 + jnp.linalg.norm(a - p, axis=-1) - jnp.linalg.norm(a - n, axis=-1))


def hostile_triples(rng):
    a, p, n = triples(rng, 6)
    return {
        "equal vectors": ((a, a, a), {}),
        "the negative at the anchor": ((a, p, a), {}),
        "entries of 1e25 and of 1e-25": ((a * 1e-25, p * 1e25, n * 1e25), {}),
    }


WRONG = (zeros(3, 4),) * 3
TRIPLET = LossCase(
    lossfns.triplet,
    triples,
    oracles.triplet,
    naive_triplet,
    flat="a triplet that is far enough apart",
    variants=({}, {"norm": "squared_l2", "margin": 0.2, "swap": True}),
    sweep={"margin": (0.2, 0.5, 1.0)},
    hostile=hostile_triples,
    limits={
        "l1": lambda x: (lossfns.triplet(*x, norm="l1"), oracles.triplet(*x, norm="l1")),
        "an equal positive and negative cost the margin": lambda x: (
            lossfns.triplet(x[0], x[1], x[1], margin=0.3),
            np.full(6, 0.3),
        ),
    },
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 4), zeros(3, 5)), ("negative", "(3, 4)", "(3, 5)")),
        BadCall((zeros(3), zeros(3), zeros(3)), ("anchor", "rank 2", "rank 1")),
        BadCall((zeros(3, 4), zeros(3, 4, dtype=np.int32), zeros(3, 4)), ("positive", "floating", "int32")),
        BadCall(WRONG, ("norm", "'l2'", "cosine"), {"norm": "cosine"}),
        BadCall(WRONG, ("margin", "at least 0", "-1"), {"margin": -1}),
        BadCall(WRONG, ("swap", "True or False"), {"swap": 1}),
    ),
    **DISTANCES,
)

BATCH_HARD_TRIPLET = LossCase(
    lossfns.batch_hard_triplet,
    labelled,
    oracles.batch_hard_triplet,
    flat="an example that is nobody's farthest or nearest",
    variants=({}, {"margin": 1.0, "norm": "squared_l2"}),
    sweep={"margin": (0.2, 0.5, 1.0)},
    batch_coupled=True,
    hostile=lambda rng: hostile_classes(rng) | {"all + 1e3": (far(labelled(rng, 6)), {})},
    limits={
        "l1": lambda x: (lossfns.batch_hard_triplet(*x, norm="l1"), oracles.batch_hard_triplet(*x, norm="l1")),
    },
    bad_calls=bad_labelled(norm="cosine", margin=-1),
    **DISTANCES,
)


def far(inputs):
    """A common offset, on a grid that float32 has there."""
    return np.round(inputs[0] * 256) / 256 + 1e3, inputs[1]


SEMI_HARD_TRIPLET = LossCase(
    lossfns.semi_hard_triplet,
    labelled,
    oracles.semi_hard_triplet,
    flat="an example that nobody chooses",
    variants=({}, {"margin": 1.0, "norm": "l2"}),
    sweep={"margin": (0.2, 0.5, 1.0)},
    # Which negative is semi-hard hangs on differences of distances that are lost between rows of unlike magnitudes.
    magnitudes=(0.1, 100.0),
    batch_coupled=True,
    hostile=lambda rng: hostile_classes(rng) | {"all + 1e3": (far(labelled(rng, 6)), {})},
    limits={
        "l1": lambda x: (lossfns.semi_hard_triplet(*x, norm="l1"), oracles.semi_hard_triplet(*x, norm="l1")),
    },
    bad_calls=bad_labelled(norm="cosine", margin=-1),
    **DISTANCES,
)


CASES = {
    "batch_hard_triplet": BATCH_HARD_TRIPLET,
    "semi_hard_triplet": SEMI_HARD_TRIPLET,
    "triplet": TRIPLET,
}
