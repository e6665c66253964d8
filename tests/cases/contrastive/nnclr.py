"""Cases of `lossfns.contrastive.nnclr`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import two_views, zeros
from tests.cases.contrastive._shared import QUEUE, inverse_temperature, unit
from tests.oracles.contrastive import nnclr as oracles


def nnclr(embeddings_a, embeddings_b, predictions_a, predictions_b, **options):
    """The queue is not a batch: its places are not rows of the others."""
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


CASES = {
    "nnclr": NNCLR,
}
