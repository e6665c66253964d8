"""Cases of `lossfns.contrastive.moco`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import two_views, zeros
from tests.cases.contrastive._shared import QUEUE, bad_pairs, hostile_views, inverse_temperature, unit
from tests.oracles.contrastive import moco as oracles


def moco(queries, keys, **options):
    """The queue is not a batch: its places are not rows of the others."""
    return lossfns.moco(queries, keys, jnp.asarray(QUEUE), **options)


def naive_moco(queries, keys):
    positive = (unit(queries) * unit(keys)).sum(-1) / 0.07
    scores = unit(queries) @ unit(jnp.asarray(QUEUE, queries.dtype)).T / 0.07
    return jnp.log(jnp.exp(positive) + jnp.exp(scores).sum(-1)) - positive


MOCO = LossCase(
    moco,
    two_views,
    lambda queries, keys, **options: oracles.moco(queries, keys, QUEUE.astype(np.float64), **options),
    naive_moco,
    name="moco",
    differentiable=(0,),  # keys come from the momentum encoder
    variants=({}, {"temperature": 0.2, "block_size": 2}),
    sweep={"temperature": (0.1, 0.2, 0.5)},
    condition=inverse_temperature(0.07),
    modes=("rev",),
    scale_invariant=(0, 1),
    non_negative=True,
    hostile=lambda rng: hostile_views(rng, temperature=0.01),
    bad_calls=(
        *bad_pairs("queries", temperature=0),
        BadCall((zeros(3, 5), zeros(3, 5)), ("queue", "(5, 5)", "(5, 4)")),
        BadCall((zeros(3, 4), zeros(3, 4)), ("queue_where", "(5,)", "(3,)"), {"queue_where": np.ones(3, bool)}),
    ),
)


def naive_moco_v3(queries_a, queries_b, keys_a, keys_b):
    values = 0
    for q, k in ((queries_a, keys_b), (queries_b, keys_a)):
        scores = unit(q) @ unit(k).T / 0.2
        values += 0.4 * (jnp.log(jnp.exp(scores).sum(-1)) - jnp.diagonal(scores))
    return values


MOCO_V3 = LossCase(
    lossfns.moco_v3,
    lambda rng, rows: (*two_views(rng, rows), *two_views(rng, rows)),
    oracles.moco_v3,
    naive_moco_v3,
    differentiable=(0, 1),  # keys come from the momentum encoder
    nan_stays=dict.fromkeys((0, 1), "a query meets all keys and no other query"),
    variants=({}, {"temperature": 0.1, "block_size": 4}),
    sweep={"temperature": (0.1, 0.2, 0.5)},
    condition=inverse_temperature(0.2),
    batch_coupled=True,
    modes=("rev",),
    scale_invariant=(0, 1, 2, 3),
    non_negative=True,
    bad_calls=(
        BadCall((zeros(3, 4),) * 3 + (zeros(3, 5),), ("keys_b", "(3, 4)", "(3, 5)")),
        BadCall((zeros(3),) * 4, ("queries_a", "rank 2", "rank 1")),
        BadCall((zeros(3, 4),) * 3 + (zeros(3, 4, dtype=np.int32),), ("keys_b", "floating", "int32")),
        BadCall((zeros(3, 4),) * 4, ("temperature", "positive", "0"), {"temperature": 0}),
    ),
)


def enqueued(keys, *, pointer=5, **options):
    """The queue and the pointer as one array."""
    queue = jnp.zeros((7, 4), jnp.promote_types(jnp.asarray(keys).dtype, jnp.float32))
    out = lossfns.enqueue(keys, queue, jnp.asarray(pointer), **options)
    return jnp.append(out.queue.ravel(), out.pointer)


def enqueue_oracle(keys, *, pointer=5):
    queue, place = oracles.enqueue(keys, np.zeros((7, 4)), pointer)
    return np.append(queue.ravel(), place)


STATE = "it returns a queue, and its places are not rows of the batch"
ENQUEUE = LossCase(
    enqueued,
    lambda rng, rows: two_views(rng, rows)[:1],
    enqueue_oracle,
    name="enqueue",
    batched=False,
    differentiable=(),
    variants=({}, {"pointer": 0}),
    hostile=lambda rng: {
        "no key": ((zeros(0, 4),), {}),
        "as many keys as places": (two_views(rng, 7)[:1], {}),
        "a zero key": ((np.concatenate([zeros(1, 4), two_views(rng, 3)[0]]),), {}),
    },
    bad_calls=(
        BadCall((zeros(3),), ("keys", "rank 2", "rank 1")),
        BadCall((zeros(3, 5),), ("queue", "(7, 5)", "(7, 4)")),
        BadCall((zeros(3, 4, dtype=np.int32),), ("keys", "floating", "int32")),
        BadCall((zeros(8, 4),), ("queue", "8 keys", "(7, 4)")),
        BadCall((zeros(3, 4),), ("pointer", "integer", "float32"), {"pointer": 1.5}),
        BadCall((zeros(3, 4),), ("where", "(3,)", "(2,)"), {"where": np.ones(2, bool)}),
    ),
    skip={
        "masked = deleted": f"{STATE}; tests/lossfns/test_contrastive_pairs.py",
        "all masked = 0": f"{STATE}; tests/lossfns/test_contrastive_pairs.py",
        "permutation": "the order of keys is their order in the queue",
        "devices = one device": f"{STATE}; tests/lossfns/test_contrastive_pairs.py",
    },
)


CASES = {
    "enqueue": ENQUEUE,
    "moco": MOCO,
    "moco_v3": MOCO_V3,
}
