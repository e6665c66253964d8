"""Rows of the losses between embeddings and a vector for each class."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import contrastive_margins as oracles
from tests.rows import zeros
from tests.rows.contrastive import unit

CLASSES = np.random.default_rng(7).normal(size=(5, 4)).astype(np.float32)
CLASSES[4] = [0, 0, 0, 2]


def with_classes(loss, oracle, naive, **fields):
    """A row for a loss whose class vectors are no rows of the batch; their gradient is a limit."""

    def of_examples(embeddings, labels, **options):
        return loss(embeddings, jnp.asarray(CLASSES), labels, **options)

    def of_class_vectors(inputs):
        """The gradient of the class vectors, against one by nothing but the textbook formula."""
        embeddings, labels = inputs
        slopes = [jax.grad(lambda w, f=f: f(embeddings, w, labels).mean())(CLASSES) for f in (loss, naive)]
        return tuple(slopes)

    three, labels = zeros(3, 4), zeros(3, dtype=np.int32)
    defaults = {
        "name": loss.__name__,
        "labels": 1,
        "num_classes": lambda *inputs: 5,
        "scale_invariant": (0,),
        "limits": {"gradient of the class vectors": of_class_vectors},
    }
    wrong = [BadCall((three, labels), (name, str(value)), {name: value}) for name, value in fields.pop("wrong").items()]
    calls = (
        BadCall((zeros(3, 5), labels), ("(5, 5)", "(5, 4)")),
        BadCall((zeros(3), labels), ("embeddings", "rank 2", "rank 1")),
        BadCall((zeros(3, 4, dtype=np.int32), labels), ("embeddings", "floating", "int32")),
        *wrong,
    )
    return LossCase(
        of_examples,
        examples,
        lambda embeddings, labels, **options: oracle(embeddings, CLASSES.astype(np.float64), labels, **options),
        lambda embeddings, labels: naive(embeddings, jnp.asarray(CLASSES, embeddings.dtype), labels),
        bad_calls=calls,
        **defaults | fields,
    )


def examples(rng, rows):
    labels = (np.arange(rows) % 4).astype(np.int32)
    return CLASSES[labels] + rng.normal(size=(rows, 4)), labels


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


def naive_proxy_nca(embeddings, proxies, labels):
    d = jnp.square(unit(embeddings)[:, None] - unit(proxies)[None]).sum(-1)
    at_label = jnp.arange(len(proxies))[None] == labels[:, None]
    return jnp.where(at_label, d, 0).sum(-1) + jnp.log(jnp.where(at_label, 0, jnp.exp(-d)).sum(-1))


PROXY_NCA = with_classes(
    lossfns.proxy_nca,
    oracles.proxy_nca,
    naive_proxy_nca,
    variants=({}, {"temperature": 1 / 9, "include_positive": True, "block_size": 2}),
    sweep={"temperature": (0.1, 0.2, 0.5)},
    condition=lambda kwargs: 2 / kwargs.get("temperature", 1.0),  # which divides twice a cosine
    modes=("rev",),
    hostile=lambda rng: {"temperature 0.01": (examples(rng, 6), {"temperature": 0.01})},
    wrong={"temperature": 0, "include_positive": 1, "block_size": 0},
)


def naive_proxy_anchor(embeddings, proxies, labels):
    s = unit(embeddings) @ unit(proxies).T
    at_label = jnp.arange(len(proxies))[None] == labels[:, None]
    pull = jnp.log(1 + jnp.where(at_label, jnp.exp(-32 * (s - 0.1)), 0).sum(0))
    push = jnp.log(1 + jnp.where(at_label, 0, jnp.exp(32 * (s + 0.1))).sum(0))
    value = jnp.where(at_label.any(0), pull, 0).sum() / at_label.any(0).sum() + push.mean()
    return jnp.full(len(labels), value)


PROXY_ANCHOR = with_classes(
    lossfns.proxy_anchor,
    oracles.proxy_anchor,
    naive_proxy_anchor,
    variants=({}, {"scale": 8.0, "margin": 0.0}),
    sweep={"scale": (8.0, 16.0, 32.0), "margin": (0.1, 0.2, 0.3)},
    condition=lambda kwargs: kwargs.get("scale", 32.0),
    batch_coupled=True,
    modes=("rev",),
    non_negative=True,
    hostile=lambda rng: {
        "one class": ((examples(rng, 6)[0], zeros(6, dtype=np.int32)), {}),
        "a label that does not exist": ((examples(rng, 6)[0], np.array([0, 1, 5, 2, 3, 0], np.int32)), {}),
    },
    wrong={"scale": 0},
)


ROWS = {"arcface": ARCFACE, "cosface": COSFACE, "proxy_anchor": PROXY_ANCHOR, "proxy_nca": PROXY_NCA}
