"""Cases of `lossfns.contrastive.supcon`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.contrastive._shared import inverse_temperature, labelled, unit
from tests.oracles.contrastive import supcon as oracles


def naive_supcon(embeddings, labels):
    scores = unit(embeddings) @ unit(embeddings).T / 0.1
    others = ~jnp.eye(len(labels), dtype=bool)
    positives = others & (labels[:, None] == labels[None])
    log_p = scores - jnp.log(jnp.where(others, jnp.exp(scores), 0).sum(-1, keepdims=True))
    return -jnp.where(positives, log_p, 0).sum(-1) / jnp.maximum(positives.sum(-1), 1)


def hostile_classes(rng):
    embeddings, labels = labelled(rng, 6)
    poles = np.sign(embeddings[:, :1]) * np.eye(4)[:1]
    return {
        "one class": ((embeddings, 0 * labels), {}),
        "all alone": ((embeddings, np.arange(6, dtype=np.int32)), {}),
        "negative labels": ((embeddings, labels - 100), {"form": "in"}),
        "cosines of +-1 at temperature 0.01": ((poles, labels), {"temperature": 0.01}),
        "cosines of +-1, the mean inside": ((poles, labels), {"temperature": 0.01, "form": "in"}),
    }


def scaled(inputs):
    """The authors' factor."""
    options = {"temperature": 0.14}
    return lossfns.supcon(*inputs, base_temperature=0.07, **options), 2 * lossfns.supcon(*inputs, **options)


SUPCON = LossCase(
    lossfns.supcon,
    labelled,
    oracles.supcon,
    naive_supcon,
    variants=({}, {"form": "in", "temperature": 0.2, "block_size": 4}),
    sweep={"temperature": (0.1, 0.2, 0.5), "base_temperature": (0.1, 0.2, 0.5)},
    condition=inverse_temperature(0.1),
    batch_coupled=True,
    modes=("rev",),
    scale_invariant=(0,),
    limits={"factor of the authors' code": scaled},
    hostile=hostile_classes,
    bad_calls=(
        BadCall((zeros(3), zeros(3, dtype=np.int32)), ("embeddings", "rank 2", "rank 1")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, dtype=np.int32)), ("embeddings", "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, 4, dtype=np.int32)), ("labels", "(3,)", "(3, 4)")),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32)), ("form", "'out', 'in'", "mean"), {"form": "mean"}),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32)), ("temperature", "positive", "0"), {"temperature": 0}),
    ),
)


CASES = {
    "supcon": SUPCON,
}
