"""Cases of `lossfns.contrastive.simclr`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from tests.cases.contrastive._shared import bad_pairs, hostile_views, inverse_temperature, of_pairs, unit
from tests.oracles.contrastive import simclr as oracles


def naive_nt_xent(view_a, view_b):
    z = jnp.concatenate([view_a, view_b])
    z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    scores = z @ z.T / 0.5
    n = len(view_a)
    positives = jnp.tile(jnp.diagonal(scores[:n, n:]), 2)
    others = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, scores)
    return (jnp.log(jnp.exp(others).sum(-1)) - positives).reshape(2, n).mean(0)


def as_supcon(inputs):
    """With two views of each example and no other example of its class, NT-Xent is SupCon."""
    labels = np.tile(np.arange(len(inputs[0]), dtype=np.int32), 2)
    values = lossfns.supcon(jnp.concatenate(inputs), labels, temperature=0.5)
    return lossfns.nt_xent(*inputs), values.reshape(2, -1).mean(0)


NT_XENT = of_pairs(
    lossfns.nt_xent,
    oracles.nt_xent,
    naive_nt_xent,
    variants=({}, {"temperature": 0.1, "block_size": 4}),
    sweep={"temperature": (0.1, 0.2, 0.5)},
    condition=inverse_temperature(0.5),
    symmetric=((0, 1),),
    limits={"one positive each: SupCon": as_supcon},
    hostile=lambda rng: hostile_views(rng, temperature=0.01),
    bad_calls=bad_pairs("view_a", temperature=0),
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
    limits={"equally hard: debiased": equally_hard},
    hostile=lambda rng: hostile_views(rng, temperature=0.01),
    bad_calls=bad_pairs("view_a", beta=-1, temperature=0, class_prior=1),
)


CASES = {
    "debiased_contrastive": DEBIASED,
    "decoupled_contrastive": DECOUPLED,
    "hard_negative_contrastive": HARD_NEGATIVE,
    "nt_xent": NT_XENT,
}
