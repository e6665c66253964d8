"""What the cases of several losses share."""

import jax
import jax.numpy as jnp
import numpy as np

from lossfns.testing import BadCall, LossCase
from tests.cases._shared import two_views, zeros


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


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
    """A row for a loss of two arrays of embeddings that is invariant to their lengths."""
    return LossCase(
        loss,
        two_views,
        oracle,
        naive,
        batch_coupled=True,
        modes=("rev",),
        **{"scale_invariant": (0, 1), "non_negative": True} | options,
    )


def naive_info_nce(queries, keys):
    scores = queries @ keys.T
    return jnp.log(jnp.exp(scores).sum(-1)) - jnp.diagonal(scores)


def labelled(rng, rows):
    """At least two of a class, and one that is alone in its own."""
    return two_views(rng, rows)[0], np.append(np.arange(rows - 1) // 2 % 3, 9)[:rows].astype(np.int32)


QUEUE = np.random.default_rng(5).normal(size=(5, 4)).astype(np.float32)

CLASSES = np.random.default_rng(7).normal(size=(5, 4)).astype(np.float32)

CLASSES[4] = [0, 0, 0, 2]


def with_classes(loss, oracle, naive, **fields):
    """A row for a loss with class vectors that are not rows of the batch; their gradient is a limit."""

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


def bad_labelled(**options):
    """Calls that no loss of embeddings and labels can serve, and options out of range."""
    labels = zeros(3, dtype=np.int32)
    wrong = [BadCall((zeros(3, 4), labels), (name, str(value)), {name: value}) for name, value in options.items()]
    return (
        BadCall((zeros(3), labels), ("embeddings", "rank 2", "rank 1")),
        BadCall((zeros(3, 4, dtype=np.int32), labels), ("embeddings", "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, 4, dtype=np.int32)), ("labels", "(3,)", "(3, 4)")),
        *wrong,
    )


def hostile_classes(rng):
    embeddings, labels = labelled(rng, 6)
    pairs = np.repeat(embeddings[::2], 2, axis=0)
    return {
        "one class": ((embeddings, 0 * labels), {}),
        "all alone": ((embeddings, np.arange(6, dtype=np.int32)), {}),
        "negative labels": ((embeddings, labels - 100), {}),
        "equal pairs": ((pairs, labels), {}),
    }
