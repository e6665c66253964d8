"""Cases of `lossfns.contrastive.margin_softmax`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from tests.cases.contrastive._shared import CLASSES, unit, with_classes
from tests.oracles.contrastive import margin_softmax as oracles


def margin_logits(embeddings, class_vectors, labels, own):
    scores = unit(embeddings) @ unit(class_vectors).T
    at_label = jnp.arange(len(class_vectors))[None] == labels[:, None]
    scores = 64 * jnp.where(at_label, own(scores), scores)
    return -jnp.where(at_label, jax.nn.log_softmax(scores), 0).sum(-1)


def naive_arcface(embeddings, class_vectors, labels):
    return margin_logits(embeddings, class_vectors, labels, lambda c: jnp.cos(jnp.arccos(jnp.clip(c, -1, 1)) + 0.5))


def naive_cosface(embeddings, class_vectors, labels):
    return margin_logits(embeddings, class_vectors, labels, lambda c: c - 0.35)


def hostile_angles(variants):
    """Angles of exactly 0 and of exactly 180 degrees to the example's own class vector."""

    def hostile(rng):
        pole, last = np.tile(CLASSES[4], (6, 1)), np.full(6, 4, np.int32)
        near = pole + 1e-4 * rng.normal(size=(6, 4))
        given = {f"the angle 0 {options}": ((pole, last), options) for options in variants}
        given |= {f"the angle pi {options}": ((-pole, last), options) for options in variants}
        return given | {"the angle nearly 0": ((near, last), {}), "the angle nearly pi": ((-near, last), {})}

    return hostile


def scale_of_cosines(kwargs):
    """A rounding of a cosine is multiplied by the scale."""
    return kwargs.get("scale", 64.0)


def without_margin(inputs):
    options, (embeddings, labels) = {"margin": 0.0, "scale": 8.0}, inputs
    return lossfns.arcface(embeddings, CLASSES, labels, **options), lossfns.cosface(
        embeddings, CLASSES, labels, **options
    )


ARCFACE = with_classes(
    lossfns.arcface,
    oracles.arcface,
    naive_arcface,
    variants=({}, {"scale": 8.0, "margin": 1.2, "beyond": "linear", "block_size": 2}),
    sweep={"scale": (8.0, 16.0, 64.0), "margin": (0.1, 0.2, 0.3)},
    condition=scale_of_cosines,
    modes=("rev",),
    non_negative=True,
    hostile=hostile_angles(({}, {"beyond": "linear"}, {"beyond": "easy"})),
    wrong={"scale": 0, "margin": -1, "beyond": "never", "block_size": 0},
)
COSFACE = with_classes(
    lossfns.cosface,
    oracles.cosface,
    naive_cosface,
    variants=({}, {"scale": 8.0, "margin": 0.1, "block_size": 2}),
    sweep={"scale": (8.0, 16.0, 64.0), "margin": (0.1, 0.2, 0.3)},
    condition=scale_of_cosines,
    modes=("rev",),
    non_negative=True,
    hostile=hostile_angles(({},)),
    wrong={"scale": 0, "margin": -1, "block_size": 0},
)

COSFACE = dataclasses.replace(COSFACE, limits={**COSFACE.limits, "no margin: ArcFace without one": without_margin})


CASES = {
    "arcface": ARCFACE,
    "cosface": COSFACE,
}
