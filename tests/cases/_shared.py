"""What the cases of several families share."""

import jax
import jax.numpy as jnp
import numpy as np

from lossfns.testing import BadCall


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


CLASSES = 5


def labelled_rows(rng, rows):
    return rng.normal(size=(rows, CLASSES)) * 2, rng.integers(0, CLASSES, rows).astype(np.int32)


def naive_cross_entropy(logits, labels):
    return -jnp.take_along_axis(jnp.log(jax.nn.softmax(logits, -1)), labels[..., None], -1)[..., 0]


def hostile_logits(rng):
    """Rows with limits of the cross-entropy; masked classes are at -inf."""
    inf = np.inf
    logits, labels = labelled_rows(rng, 4)
    return {
        "logits + 1e4": ((logits + 1e4, labels), {}),
        "logits of +-1e4": ((np.array([[1e4, -1e4, 0], [1e4, 1e4, -1e4]]), np.array([1, 0])), {}),
        "-inf logits": ((np.array([[0, -inf, 1], [-inf, -inf, 3]]), np.array([0, 2])), {}),
        "the label at -inf": ((np.array([[0, -inf, 1.0], [0, 1, 2]]), np.array([1, 0])), {}),
        "one class at +inf": ((np.array([[0, inf, -inf], [0, inf, 1]]), np.array([1, 0])), {}),
        "one class": ((np.array([[3.0], [-1e4]]), np.array([0, 0])), {}),
    }


def two_rows(rng, rows):
    return rng.normal(size=(rows, CLASSES)) * 2, rng.normal(size=(rows, CLASSES)) * 2


def hostile_pairs(rng):
    inf = np.inf
    x, y = two_rows(rng, 4)
    holes, other_holes = np.array([[0, -inf, 1], [-inf, -inf, 2]]), np.array([[1, -inf, -inf], [0, 1, 2.0]])
    return {
        "logits + 1e4": ((x + 1e4, y - 1e4), {}),
        "logits of +-1e4": ((np.array([[1e4, 1e4, 0.0]]), np.array([[1e4, 0.0, -1e4]])), {}),
        "equal": ((x, x), {}),
        "classes at -inf": ((holes, other_holes), {}),
        "classes at -inf on the other side": ((other_holes, holes), {}),
        "one class at +inf": ((np.array([[0, inf, -inf]]), np.array([[0, inf, 1]])), {}),
        "one class": ((np.array([[3.0]]), np.array([[-1e4]])), {}),
    }


def nearly_alike(loss, oracle, inputs, gain=1e6):
    """Of the square of a small difference the digits are right, not only the zeros before them."""
    first, second, *rest = inputs
    second = (first + 1e-3 * second).astype(np.float32)
    exact = oracle(np.float64(first), np.float64(second), *rest)
    return gain * loss(*map(jnp.asarray, (first, second, *rest))), gain * exact


def naive_kl(logits, target_logits):
    p, t = jax.nn.softmax(logits, -1), jax.nn.softmax(target_logits, -1)
    return (t * jnp.log(t / p)).sum(-1)


SURE = (np.array([[200.0, 0.0, 0.0], [0.0, 25.0, 0.0]]), np.array([0, 1]))
WRONG_LABELS = (
    BadCall((zeros(3, 4), zeros(4, dtype=np.int32)), ("(3,)", "(4,)", "(3, 4)")),
    BadCall((zeros(3, 4), zeros(3, 4, dtype=np.int32)), ("(3,)", "(3, 4)")),
    BadCall((zeros(3, 4, dtype=np.int32), zeros(3, dtype=np.int32)), ("logits", "floating", "int32")),
)


def label_call(*words, **options):
    return BadCall((zeros(3, 4), zeros(3, dtype=np.int32)), words, options)


def probability(logits, labels):
    return jnp.take_along_axis(jax.nn.softmax(logits, -1), labels[..., None], -1)[..., 0]


def two_views(rng, rows):
    view = rng.normal(size=(rows, 4))
    return view, view + 0.5 * rng.normal(size=(rows, 4))


INTS = {"dtype": np.int32}


def padded(x, axis, value):
    """One more place on an axis, with something in it that must not matter."""
    width = [(0, 0)] * x.ndim
    width[axis] = (0, 1)
    return np.pad(x, width, constant_values=value)


VOCABULARY, FEATURES = 7, 4

# Eighths, which all dtypes hold exactly.
HEAD = np.random.default_rng(0).integers(-8, 9, (VOCABULARY, FEATURES)).astype(np.float32) / 8
GONE = np.where(np.arange(VOCABULARY) == 2, -np.inf, 0).astype(np.float32)
NO_FORWARD_MODE = ("rev",)


def logits_of(hidden):
    return hidden @ jnp.asarray(HEAD).astype(hidden.dtype).T
