"""What the cases of several losses share."""

import jax.numpy as jnp
import numpy as np

from lossfns.testing import BadCall
from tests.cases._shared import zeros

INTEGERS = np.int32


def segmented(rng, rows):
    """Four places an example; class 2 is absent from most."""
    return rng.normal(size=(rows, 4, 3)) * 2, np.minimum(rng.integers(0, 6, (rows, 4)), 2).astype(INTEGERS) % 3


def one_hot(labels, classes):
    return (labels[..., None] == jnp.arange(classes).reshape((1,) * labels.ndim + (-1,))).astype(jnp.float32)


def hostile_regions(rng):
    logits, labels = segmented(rng, 6)
    right = 1e4 * (2 * np.asarray(one_hot(labels, 3)) - 1)
    nothing = zeros(6, 4, 3)
    return {
        "right": ((right, labels), {}),
        "wrong": ((-right, labels), {}),
        "one class only": ((logits, 0 * labels), {}),
        "absent classes kept": ((logits, 0 * labels), {"absent": "keep"}),
        "no positive": ((logits, nothing), {}),
        "no positive, nothing predicted": ((logits * 0 - 1e4, nothing), {"absent": "keep"}),
        "memberships that are none": ((logits, nothing + 1.5), {}),
    }


WRONG_REGIONS = (
    BadCall((zeros(3, 4, 2), zeros(3, 5, dtype=INTEGERS)), ("(3, 4)", "(3, 5)")),
    BadCall((zeros(3), zeros(3, dtype=INTEGERS)), ("logits", "classes", "(3,)")),
    BadCall((zeros(3, 0), zeros(3, dtype=INTEGERS)), ("at least one class", "(3, 0)")),
    BadCall((zeros(3, 4, 2, dtype=INTEGERS), zeros(3, 4, dtype=INTEGERS)), ("logits", "floating", "int32")),
    BadCall((zeros(3, 4, 2), zeros(3, 4, dtype=INTEGERS)), ("absent", "skip", "'none'"), {"absent": "none"}),
    BadCall((zeros(3, 4, 2), zeros(3, 4, dtype=INTEGERS)), ("valid", "(3, 4)", "(3,)"), {"valid": np.ones(3, bool)}),
)
WRONG_OVER = (
    BadCall((zeros(3, 4, 2), zeros(3, 4, dtype=INTEGERS)), ("over", "example", "'image'"), {"over": "image"}),
)


def padding(loss, **options):
    """Additional void places change nothing."""

    def both(inputs):
        logits, labels = inputs
        wide = np.concatenate([logits, np.full_like(logits, np.nan)], 1)
        marked = np.concatenate([labels, np.full_like(labels, 255)], 1)
        valid = np.arange(wide.shape[1])[None].repeat(len(wide), 0) < logits.shape[1]
        return loss(jnp.asarray(wide), jnp.asarray(marked), valid=jnp.asarray(valid), **options), loss(
            *map(jnp.asarray, inputs), **options
        )

    return both


def batch_as_example(loss):
    """Over the batch is over one example that has all the places."""

    def both(inputs):
        logits, labels = map(jnp.asarray, inputs)
        together = loss(logits.reshape(1, -1, logits.shape[-1]), labels.reshape(1, -1), over="example")
        return loss(logits, labels, over="batch"), np.full(len(logits), np.asarray(together)[0])

    return both
