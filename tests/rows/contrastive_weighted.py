"""Rows of the contrastive losses with weighed negatives, of neighbours, and on the sphere."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import contrastive_weighted as oracles
from tests.rows import zeros
from tests.rows.contrastive import (
    QUEUE,
    bad_pairs,
    hostile_views,
    inverse_temperature,
    of_pairs,
    two_views,
    unit,
)


def scores_of_views(view_a, view_b, temperature):
    """[2N, 2N] scores, the positives [2N], and which are negatives."""
    z, n = unit(jnp.concatenate([view_a, view_b])), len(view_a)
    scores, eye = z @ z.T / temperature, jnp.eye(n, dtype=bool)
    return scores, jnp.tile(jnp.diagonal(scores[:n, n:]), 2), ~jnp.tile(eye, (2, 2))


def naive_decoupled(view_a, view_b):
    scores, positives, negative = scores_of_views(view_a, view_b, 0.1)
    return (jnp.log(jnp.where(negative, jnp.exp(scores), 0).sum(-1)) - positives).reshape(2, -1).mean(0)


def as_nt_xent(inputs):
    """With equal views both anchors of a pair have the same sum, to which NT-Xent adds the positive: 1 over 0.5."""
    a, options = inputs[0], {"temperature": 0.5}
    return lossfns.nt_xent(a, a, **options), jnp.logaddexp(lossfns.decoupled_contrastive(a, a, **options), 0)


def equal_weights(inputs):
    return lossfns.decoupled_contrastive(*inputs, sigma=1e9), lossfns.decoupled_contrastive(*inputs)


DECOUPLED = of_pairs(
    lossfns.decoupled_contrastive,
    oracles.decoupled_contrastive,
    naive_decoupled,
    variants=({}, {"sigma": 0.5, "temperature": 0.5, "block_size": 4}),
    sweep={"temperature": (0.1, 0.2, 0.5), "sigma": (0.3, 0.5, 1.0)},
    condition=inverse_temperature(0.1),
    non_negative=False,
    symmetric=((0, 1),),
    limits={
        "the positive in the sum: NT-Xent": as_nt_xent,
        "an infinite sigma: weights of 1": equal_weights,
    },
    hostile=lambda rng: hostile_views(rng, temperature=0.01),
    bad_calls=bad_pairs("view_a", temperature=0, sigma=0),
)


def naive_debiased(view_a, view_b, beta=0.0):
    scores, positives, negative = scores_of_views(view_a, view_b, 0.5)
    count = 2 * len(view_a) - 2
    weights = jnp.where(negative, jnp.exp(beta * scores), 0)
    mean = (weights * jnp.exp(scores)).sum(-1) / weights.sum(-1)
    g = jnp.maximum((mean - 0.1 * jnp.exp(positives)) / 0.9, jnp.exp(-2.0).astype(mean.dtype))
    return (jnp.log(jnp.exp(positives) + count * g) - positives).reshape(2, -1).mean(0)


def without_prior(inputs):
    return lossfns.debiased_contrastive(*inputs, class_prior=0.0), lossfns.nt_xent(*inputs)


def equally_hard(inputs):
    return lossfns.hard_negative_contrastive(*inputs, beta=0.0), lossfns.debiased_contrastive(*inputs)


DEBIASED = of_pairs(
    lossfns.debiased_contrastive,
    oracles.debiased_contrastive,
    naive_debiased,
    variants=({}, {"temperature": 0.2, "class_prior": 0.05, "block_size": 4}),
    sweep={"temperature": (0.1, 0.2, 0.5), "class_prior": (0.05, 0.1, 0.2)},
    # A mean less a share of the positive: what is left may be a tenth of it.
    condition=lambda kwargs: 4 * inverse_temperature(0.5)(kwargs),
    symmetric=((0, 1),),
    limits={"no prior: NT-Xent": without_prior},
    hostile=lambda rng: hostile_views(rng, temperature=0.01),
    bad_calls=bad_pairs("view_a", temperature=0, class_prior=1),
)
HARD_NEGATIVE = of_pairs(
    lossfns.hard_negative_contrastive,
    oracles.hard_negative_contrastive,
    lambda view_a, view_b: naive_debiased(view_a, view_b, beta=1.0),
    variants=({}, {"beta": 0.5, "temperature": 0.2, "class_prior": 0.05, "block_size": 4}),
    sweep={"beta": (0.5, 1.0, 2.0), "temperature": (0.1, 0.2, 0.5), "class_prior": (0.05, 0.1, 0.2)},
    condition=lambda kwargs: 8 * inverse_temperature(0.5)(kwargs),
    symmetric=((0, 1),),
    limits={"all alike hard: debiased": equally_hard},
    hostile=lambda rng: hostile_views(rng, temperature=0.01),
    bad_calls=bad_pairs("view_a", beta=-1, temperature=0, class_prior=1),
)


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


def nnclr(embeddings_a, embeddings_b, predictions_a, predictions_b, **options):
    """The queue is no batch: its places are not rows of the others."""
    return lossfns.nnclr(embeddings_a, embeddings_b, predictions_a, predictions_b, jnp.asarray(QUEUE), **options)


def naive_nnclr(embeddings_a, embeddings_b, predictions_a, predictions_b):
    support, values = unit(jnp.asarray(QUEUE, predictions_a.dtype)), 0
    for z, p in ((embeddings_a, predictions_b), (embeddings_b, predictions_a)):
        scores = support[(unit(z) @ support.T).argmax(1)] @ unit(p).T / 0.1
        values += (jnp.log(jnp.exp(scores).sum(-1)) - jnp.diagonal(scores)) / 2
    return values


def as_info_nce(inputs):
    """With the embeddings in the queue, each finds itself."""
    a, b = inputs[:2]
    both = [lossfns.info_nce(z, p, temperature=0.1, similarity="cosine") for z, p in ((a, inputs[3]), (b, inputs[2]))]
    return lossfns.nnclr(*inputs, jnp.concatenate([a, b])), sum(both) / 2


FOUR = (zeros(3, 4),) * 4
NNCLR = LossCase(
    nnclr,
    lambda rng, rows: (*two_views(rng, rows), *two_views(rng, rows)),
    lambda *arrays, **options: oracles.nnclr(*arrays, QUEUE.astype(np.float64), **options),
    naive_nnclr,
    name="nnclr",
    differentiable=(2, 3),  # the embeddings only choose
    nan_stays=dict.fromkeys((0, 1), "an embedding chooses a neighbour for its own row"),
    variants=({}, {"temperature": 0.5, "block_size": 4}),
    sweep={"temperature": (0.1, 0.2, 0.5)},
    condition=inverse_temperature(0.1),
    batch_coupled=True,
    modes=("rev",),
    scale_invariant=(0, 1, 2, 3),
    non_negative=True,
    limits={"itself the neighbour: InfoNCE both ways": as_info_nce},
    bad_calls=(
        BadCall((*FOUR[:3], zeros(3, 5)), ("predictions_b", "(3, 4)", "(3, 5)")),
        BadCall((zeros(3),) * 4, ("embeddings_a", "rank 2", "rank 1")),
        BadCall((*FOUR[:3], zeros(3, 4, dtype=np.int32)), ("predictions_b", "floating", "int32")),
        BadCall((zeros(3, 5),) * 4, ("queue", "(5, 5)", "(5, 4)")),
        BadCall(FOUR, ("temperature", "positive", "0"), {"temperature": 0}),
        BadCall(FOUR, ("queue_where", "(5,)", "(3,)"), {"queue_where": np.ones(3, bool)}),
    ),
)


ROWS = {
    "alignment": ALIGNMENT,
    "debiased_contrastive": DEBIASED,
    "decoupled_contrastive": DECOUPLED,
    "hard_negative_contrastive": HARD_NEGATIVE,
    "nnclr": NNCLR,
    "uniformity": UNIFORMITY,
}
