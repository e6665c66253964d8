"""Rows of the losses of triplets and of weighed pairs."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import contrastive_margins as oracles
from tests.rows import zeros
from tests.rows.contrastive import bad_pairs, labelled, naive_info_nce, two_views, unit

# A value is a difference of distances, each of up to ten units, to a margin of order one.
DISTANCES = {"condition": lambda kwargs: 8.0, "smooth": False, "non_negative": True}


def bad_labelled(**options):
    """Calls that no loss of embeddings and labels can serve, and options out of range."""
    labels = zeros(3, dtype=np.int32)
    wrong = [BadCall((zeros(3, 4), labels), (name, str(value)), {name: value}) for name, value in options.items()]
    return (
        BadCall((zeros(3), labels), ("embeddings", "rank 2", "rank 1")),
        BadCall((zeros(3, 4, dtype=np.int32), labels), ("embeddings", "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, 4, dtype=np.int32)), ("labels", "(3,)", "(3, 4)")),
        *wrong,
    )


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


def hostile_classes(rng):
    embeddings, labels = labelled(rng, 6)
    pairs = np.repeat(embeddings[::2], 2, axis=0)
    return {
        "one class": ((embeddings, 0 * labels), {}),
        "all alone": ((embeddings, np.arange(6, dtype=np.int32)), {}),
        "negative labels": ((embeddings, labels - 100), {}),
        "pairs alike": ((pairs, labels), {}),
    }


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
    magnitudes=(0.1, 1e15),
    batch_coupled=True,
    hostile=lambda rng: hostile_classes(rng) | {"all + 1e3": (far(labelled(rng, 6)), {})},
    limits={
        "l1": lambda x: (lossfns.semi_hard_triplet(*x, norm="l1"), oracles.semi_hard_triplet(*x, norm="l1")),
    },
    bad_calls=bad_labelled(norm="cosine", margin=-1),
    **DISTANCES,
)

N_PAIRS = LossCase(
    lossfns.n_pairs,
    two_views,
    oracles.n_pairs,
    naive_info_nce,
    nan_stays={0: "an anchor meets all positives and no other anchor"},
    variants=({}, {"length_weight": 0.1, "block_size": 4}),
    sweep={"length_weight": (0.1, 0.2, 0.5)},
    condition=lambda kwargs: 4.0,  # as InfoNCE's: a score is a product of vectors of length three
    magnitudes=(0.0, 1e15),  # products of larger entries overflow
    batch_coupled=True,
    modes=("rev",),
    non_negative=True,
    limits={"InfoNCE": lambda x: (lossfns.n_pairs(*x), lossfns.info_nce(*x))},
    bad_calls=bad_pairs("anchors", length_weight=-1),
)


def naive_circle(embeddings, labels):
    s = unit(embeddings) @ unit(embeddings).T
    same, self = labels[:, None] == labels[None], jnp.eye(len(labels), dtype=bool)
    push = jnp.where(same, 0, jnp.exp(16 * jax.nn.relu(s + 0.25) * (s - 0.25))).sum(-1)
    pull = jnp.where(same & ~self, jnp.exp(-16 * jax.nn.relu(1.25 - s) * (s - 0.75)), 0).sum(-1)
    return jnp.log(1 + push * pull)


def hostile_poles(rng):
    embeddings, labels = labelled(rng, 6)
    poles = np.sign(embeddings[:, :1]) * np.eye(4)[:1]
    return hostile_classes(rng) | {"cosines of +-1": ((poles, labels), {})}


# The variants let the weights move, so that the gradient is the value's; without it the value is the same (limits), and
# the gradient is in tests/lossfns/test_contrastive_margins.py.
CIRCLE = LossCase(
    lossfns.circle,
    labelled,
    oracles.circle,
    naive_circle,
    variants=(
        {"weights_gradient": True, "scale": 16.0, "margin": 0.25},
        {"weights_gradient": True, "block_size": 4},
    ),
    sweep={"scale": (10.0, 20.0, 80.0), "margin": (0.1, 0.2, 0.3)},
    # A rounding of a cosine is multiplied by the scale and by twice the cosine, for both of two sums.
    condition=lambda kwargs: 4 * kwargs.get("scale", 80.0),
    batch_coupled=True,
    modes=("rev",),
    scale_invariant=(0,),
    non_negative=True,
    hostile=hostile_poles,
    limits={
        "constant weights": lambda x: (lossfns.circle(*x), lossfns.circle(*x, weights_gradient=True)),
    },
    bad_calls=bad_labelled(scale=0, margin=-1, weights_gradient=2, block_size=0),
)


def naive_multi_similarity(embeddings, labels):
    s = unit(embeddings) @ unit(embeddings).T
    same, self = labels[:, None] == labels[None], jnp.eye(len(labels), dtype=bool)
    positives, negatives = same & ~self, ~same
    least = jnp.where(positives, s, jnp.inf).min(1, keepdims=True)
    most = jnp.where(negatives, s, -jnp.inf).max(1, keepdims=True)
    positives, negatives = positives & (s < most + 0.1), negatives & (s > least - 0.1)
    pull = jnp.log(1 + jnp.where(positives, jnp.exp(-2 * (s - 1)), 0).sum(-1)) / 2
    return pull + jnp.log(1 + jnp.where(negatives, jnp.exp(50 * (s - 1)), 0).sum(-1)) / 50


MULTI_SIMILARITY = LossCase(
    lossfns.multi_similarity,
    labelled,
    oracles.multi_similarity,
    naive_multi_similarity,
    flat="a pair that is not mined",
    variants=({}, {"beta": 40.0, "threshold": 0.5, "mining_margin": None}),
    sweep={
        "alpha": (1.0, 2.0, 3.0),
        "beta": (10.0, 20.0, 50.0),
        "threshold": (0.3, 0.4, 0.5),
        "mining_margin": (0.1, 0.2, 0.3),
    },
    condition=lambda kwargs: 8.0,  # the slope of a logarithm changes by beta from one cosine to the next
    batch_coupled=True,
    modes=("rev",),
    scale_invariant=(0,),
    non_negative=True,
    hostile=hostile_poles,
    bad_calls=bad_labelled(alpha=0, beta=-1, mining_margin=-1),
)


ROWS = {
    "batch_hard_triplet": BATCH_HARD_TRIPLET,
    "circle": CIRCLE,
    "multi_similarity": MULTI_SIMILARITY,
    "n_pairs": N_PAIRS,
    "semi_hard_triplet": SEMI_HARD_TRIPLET,
    "triplet": TRIPLET,
}
