"""Rows of the contrastive losses."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import contrastive as oracles
from tests.rows import zeros


def two_views(rng, rows):
    view = rng.normal(size=(rows, 4))
    return view, view + 0.5 * rng.normal(size=(rows, 4))


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def naive_nt_xent(view_a, view_b):
    z = jnp.concatenate([view_a, view_b])
    z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    scores = z @ z.T / 0.5
    n = len(view_a)
    positives = jnp.tile(jnp.diagonal(scores[:n, n:]), 2)
    others = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, scores)
    return (jnp.log(jnp.exp(others).sum(-1)) - positives).reshape(2, n).mean(0)


def hostile_views(rng, **cold):
    """Vectors of any length and direction, the latter also with scores that are `cold`: far apart."""
    view_a, view_b = two_views(rng, 6)
    poles = np.sign(view_a[:, :1]) * np.eye(4)[:1]
    zero_row = np.concatenate([zeros(1, 4), view_a[1:]])
    return {
        "zero rows in both views": ((zero_row, zero_row), {}),
        "entries of 1e25": ((view_a * 1e25, view_b * 1e25), {}),
        "entries of 1e-25": ((view_a * 1e-25, view_b * 1e-25), {}),
        f"cosines of +-1 at {cold}": ((poles, poles), cold),
        f"opposite views at {cold}": ((poles, -poles), cold),
    }


def inverse_temperature(default):
    """A rounding of a cosine is divided by the temperature."""
    return lambda kwargs: max(1.0, 1 / kwargs.get("temperature", default))


def scale_of_cosines(default):
    """A rounding of a cosine is multiplied by the scale."""
    return lambda kwargs: max(1.0, kwargs.get("scale", default))


def bad_pairs(first, **options):
    """Calls that no loss of two arrays of embeddings can serve, and options out of range."""
    wrong = [BadCall((zeros(3, 4), zeros(3, 4)), (name, str(value)), {name: value}) for name, value in options.items()]
    return (
        BadCall((zeros(3, 4), zeros(3, 5)), ("(3, 4)", "(3, 5)")),
        BadCall((zeros(3), zeros(3)), ("rank 2", "rank 1", "(3,)")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), (first, "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, 4)), ("block_size", "at least 1", "0"), {"block_size": 0}),
        *wrong,
    )


def of_pairs(loss, oracle, naive, **options):
    """A row for a loss of two arrays of embeddings whose lengths do not matter."""
    return LossCase(
        loss,
        two_views,
        oracle,
        naive,
        batch_coupled=True,
        modes=("rev",),
        **{"scale_invariant": (0, 1), "non_negative": True} | options,
    )


def as_sup_con(inputs):
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
    limits={"one positive each: SupCon": as_sup_con},
    hostile=lambda rng: hostile_views(rng, temperature=0.01),
    bad_calls=bad_pairs("view_a", temperature=0),
)


def naive_info_nce(queries, keys):
    scores = queries @ keys.T
    return jnp.log(jnp.exp(scores).sum(-1)) - jnp.diagonal(scores)


def hot(inputs):
    """At an infinite temperature all keys are alike."""
    return lossfns.info_nce(*inputs, temperature=1e9), np.full(len(inputs[0]), np.log(len(inputs[0])))


INFO_NCE = of_pairs(
    lossfns.info_nce,
    oracles.info_nce,
    naive_info_nce,
    variants=({}, {"temperature": 0.1, "similarity": "cosine", "block_size": 4}),
    sweep={"temperature": (0.1, 0.2, 0.5)},
    nan_stays={0: "a query meets all keys and no other query"},
    # A score is a product of vectors of length three, of which one entry's rounding is a share.
    condition=lambda kwargs: 4 * inverse_temperature(1.0)(kwargs),
    scale_invariant=(),
    limits={"infinite temperature: log N": hot},
    hostile=lambda rng: {
        "cosines of entries of 1e25": (
            tuple(1e25 * x for x in two_views(rng, 6)),
            {"temperature": 0.1, "similarity": "cosine"},
        ),
        "scores of 1e4": (tuple(50 * x for x in two_views(rng, 6)), {"temperature": 0.5}),
    },
    bad_calls=(
        *bad_pairs("queries", temperature=-1, similarity="euclid"),
        BadCall((zeros(3, 4), zeros(3, 4, dtype=np.int32)), ("keys", "floating", "int32")),
    ),
)


def naive_clip(a, b):
    scores = unit(a) @ unit(b).T / 0.07
    rows, columns = jnp.log(jnp.exp(scores).sum(1)), jnp.log(jnp.exp(scores).sum(0))
    return (rows + columns) / 2 - jnp.diagonal(scores)


def both_directions(inputs):
    """CLIP is the mean of InfoNCE both ways."""
    options = {"temperature": 0.07, "similarity": "cosine"}
    a, b = inputs
    return lossfns.clip(a, b), (lossfns.info_nce(a, b, **options) + lossfns.info_nce(b, a, **options)) / 2


def clipped(inputs):
    return lossfns.clip(*inputs, scale=1e3), lossfns.clip(*inputs, scale=100.0)


CLIP = of_pairs(
    lossfns.clip,
    oracles.clip,
    naive_clip,
    variants=({}, {"scale": 100.0, "block_size": 4, "ring": True}),
    sweep={"scale": (10.0, 20.0, 30.0), "max_scale": (10.0, 20.0, 30.0)},
    condition=scale_of_cosines(1 / 0.07),
    symmetric=((0, 1),),
    limits={"InfoNCE both ways": both_directions, "scale beyond its bound": clipped},
    hostile=lambda rng: hostile_views(rng, scale=100.0),
    bad_calls=(
        *bad_pairs("a", scale=0, max_scale=-1, ring=1),
        BadCall((zeros(3, 4), zeros(2, 4)), ("b", "(3, 4)", "(2, 4)")),
    ),
)


def naive_siglip(a, b):
    scores = 10 * unit(a) @ unit(b).T - 10
    return -jnp.log(jax.nn.sigmoid((2 * jnp.eye(len(a), dtype=scores.dtype) - 1) * scores)).sum(-1)


def indifferent(inputs):
    """With all scores 0 each of a row's N pairs costs log 2."""
    return lossfns.siglip(*inputs, scale=1e-30, bias=0.0), np.full(len(inputs[0]), len(inputs[0]) * np.log(2))


SIGLIP = of_pairs(
    lossfns.siglip,
    oracles.siglip,
    naive_siglip,
    variants=({}, {"scale": 2.0, "bias": 0.5, "block_size": 4, "ring": True}),
    sweep={"scale": (10.0, 20.0, 30.0), "bias": (-10.0, -5.0, 0.0)},
    nan_stays={0: "the value of a pair is that of its image with all texts"},
    condition=scale_of_cosines(10.0),
    limits={"scores of 0": indifferent},
    hostile=lambda rng: hostile_views(rng, scale=100.0) | hostile_views(rng, bias=1e4),
    bad_calls=(
        *bad_pairs("a", scale=-1, ring="yes"),
        BadCall((zeros(3, 4), zeros(2, 4)), ("b", "(3, 4)", "(2, 4)")),
    ),
)


def labelled(rng, rows):
    """At least two of a class, and one that is alone in its own."""
    return two_views(rng, rows)[0], np.append(np.arange(rows - 1) // 2 % 3, 9)[:rows].astype(np.int32)


def naive_sup_con(embeddings, labels):
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
    naive_sup_con,
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

QUEUE = np.random.default_rng(5).normal(size=(5, 4)).astype(np.float32)


def moco(queries, keys, **options):
    """The queue is no batch: its places are not rows of the others."""
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


STATE = "it returns a queue, whose places are not rows of the batch"
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


ROWS = {
    "clip": CLIP,
    "enqueue": ENQUEUE,
    "info_nce": INFO_NCE,
    "moco": MOCO,
    "moco_v3": MOCO_V3,
    "nt_xent": NT_XENT,
    "siglip": SIGLIP,
    "supcon": SUPCON,
}
