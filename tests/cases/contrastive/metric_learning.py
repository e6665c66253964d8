"""Cases of `lossfns.contrastive.metric_learning`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import LossCase
from tests.cases._shared import two_views
from tests.cases.contrastive._shared import bad_labelled, bad_pairs, hostile_classes, labelled, naive_info_nce, unit
from tests.oracles.contrastive import metric_learning as oracles

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


CASES = {
    "circle": CIRCLE,
    "multi_similarity": MULTI_SIMILARITY,
    "n_pairs": N_PAIRS,
}
