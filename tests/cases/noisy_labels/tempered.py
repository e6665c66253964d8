"""Cases of `lossfns.noisy_labels.tempered`."""

import jax.numpy as jnp

import lossfns
from tests.cases._shared import WRONG_LABELS, hostile_logits, label_call, labelled_rows
from tests.cases.noisy_labels._shared import cross_entropy_at, labelled_case
from tests.oracles.noisy_labels import tempered as oracles


def hostile_activations(rng):
    logits, labels = labelled_rows(rng, 2)
    named = hostile_logits(rng)
    return named | {
        "finite support": (named["-inf logits"][0], {"t1": 0.5, "t2": 0.5}),
        "temperatures of 1": (named["-inf logits"][0], {"t1": 1.0, "t2": 1.0}),
        "t1 near 1 and t2 near 1": ((logits, labels), {"t1": 1 - 1e-6, "t2": 1 + 1e-6}),
        "heavy tails": ((100 * logits, labels), {"t1": 0.0, "t2": 4.0}),
    }


def naive_bi_tempered(logits, labels):
    """The authors' fixed-point iteration, often enough."""
    top = logits.max(-1, keepdims=True)
    start = logits - top
    scaled = start

    def tempered_exp(x):
        return (1 - 0.2 * x) ** -5.0

    for _ in range(20):
        scaled = start * tempered_exp(scaled).sum(-1, keepdims=True) ** -0.2
    normalizer = (tempered_exp(scaled).sum(-1, keepdims=True) ** 0.2 - 1) / 0.2
    p = tempered_exp(start - normalizer)
    label = jnp.take_along_axis(p, labels[..., None], -1)[..., 0]
    return (1 - label**0.2) / 0.2 - (1 - (p**1.2).sum(-1)) / 1.2


BI_TEMPERED = labelled_case(
    lossfns.bi_tempered,
    oracles.bi_tempered,
    naive_bi_tempered,
    variants=({}, {"t1": 0.3, "t2": 2.5}),
    sweep={"t1": (0.2, 0.5, 0.8), "t2": (1.1, 1.2, 1.3)},
    hostile=hostile_activations,
    limits={"temperatures of 1 are the cross-entropy": cross_entropy_at(lossfns.bi_tempered, t1=1.0, t2=1.0)},
    bad_calls=(*WRONG_LABELS, label_call("t1", "1.5", t1=1.5), label_call("t2", "positive", "0", t2=0)),
)


CASES = {
    "bi_tempered": BI_TEMPERED,
}
