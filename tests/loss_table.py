"""One row for each public name of lossfns: how to make its inputs, what is right, and what does not apply and why."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests import oracles

CLASSES = 5


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


# ---- classification --------------------------------------------------------------------------------------------------


def labelled_rows(rng, rows):
    return rng.normal(size=(rows, CLASSES)) * 2, rng.integers(0, CLASSES, rows).astype(np.int32)


def naive_cross_entropy(logits, labels):
    return -jnp.take_along_axis(jnp.log(jax.nn.softmax(logits, -1)), labels[..., None], -1)[..., 0]


def hostile_logits(rng):
    """Rows whose cross-entropies have limits; masked classes are at -inf."""
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


def hostile_smoothed_logits(rng):
    """The same and what smoothing could get wrong: its mass must not reach masked classes."""
    masked = (np.array([[0, -np.inf, 1], [-np.inf, -np.inf, 3]]), np.array([0, 2]))
    return hostile_logits(rng) | {
        "smoothing beside masked classes": (masked, {"label_smoothing": 0.1}),
        "smoothing over others beside masked classes": (masked, {"label_smoothing": 0.1, "smoothing_over": "others"}),
        "a cap on masked classes": (masked, {"soft_cap": 5.0}),
        "the z-loss of masked classes": (masked, {"z_loss": 0.1}),
    }


SOFTMAX = LossCase(
    lossfns.softmax_cross_entropy,
    labelled_rows,
    oracles.softmax_cross_entropy,
    naive_cross_entropy,
    variants=(
        {},
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.2, "smoothing_over": "others", "z_loss": 0.01},
        {"soft_cap": 3.0},
    ),
    sweep={"label_smoothing": (0.1, 0.2, 0.3), "z_loss": (1e-4, 1e-3, 1e-2), "soft_cap": (3.0, 30.0, 50.0)},
    labels=1,
    hostile=hostile_smoothed_logits,
    bad_calls=(
        BadCall((zeros(3, 4), zeros(4, dtype=np.int32)), ("(3,)", "(4,)", "(3, 4)")),
        BadCall((zeros(3, 4), zeros(3, 4, dtype=np.int32)), ("(3,)", "(3, 4)")),
        BadCall((zeros(), zeros(dtype=np.int32)), ("logits", "()")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, dtype=np.int32)), ("logits", "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32)), ("label_smoothing", "1.5"), {"label_smoothing": 1.5}),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32)), ("z_loss", "-1"), {"z_loss": -1}),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32)), ("soft_cap", "0"), {"soft_cap": 0}),
        BadCall((zeros(3, 4), zeros(3, dtype=np.int32)), ("all", "others", "rest"), {"smoothing_over": "rest"}),
    ),
)


# ---- regression ------------------------------------------------------------------------------------------------------


def predicted_rows(rng, rows):
    return rng.normal(size=(rows, 3)) * 2, rng.normal(size=(rows, 3))


def hostile_predictions(rng):
    predictions, targets = predicted_rows(rng, 4)
    return {
        "both + 1e4": ((predictions + 1e4, targets + 1e4), {}),
        "equal": ((targets, targets), {}),
        "infinite predictions": ((np.array([np.inf, -np.inf, 0.0]), zeros(3)), {}),
    }


WRONG_PREDICTIONS = (
    BadCall((zeros(3, 1), zeros(3)), ("(3, 1)", "(3,)")),
    BadCall((zeros(3, dtype=np.int32), zeros(3)), ("predictions", "floating", "int32")),
)
SQUARED = LossCase(
    lossfns.squared_error,
    predicted_rows,
    oracles.squared_error,
    lambda predictions, targets: (predictions - targets) ** 2,
    element_masks=True,
    hostile=hostile_predictions,
    bad_calls=WRONG_PREDICTIONS,
)
ABSOLUTE = LossCase(
    lossfns.absolute_error,
    predicted_rows,
    oracles.absolute_error,
    lambda predictions, targets: jnp.abs(predictions - targets),
    element_masks=True,
    hostile=hostile_predictions,
    bad_calls=WRONG_PREDICTIONS,
)


def naive_huber(predictions, targets):
    e = jnp.abs(predictions - targets)
    return jnp.where(e <= 1, e * e / 2, e - 0.5)


HUBER = LossCase(
    lossfns.huber,
    predicted_rows,
    oracles.huber,
    naive_huber,
    variants=({}, {"delta": 0.3}),
    sweep={"delta": (0.5, 1.0, 2.0)},
    element_masks=True,
    hostile=lambda rng: hostile_predictions(rng) | {"errors of 1e25": ((np.array([1e25, -1e25]), zeros(2)), {})},
    bad_calls=(*WRONG_PREDICTIONS, BadCall((zeros(3), zeros(3)), ("delta", "positive", "-1"), {"delta": -1})),
)


# ---- contrastive -----------------------------------------------------------------------------------------------------


def two_views(rng, rows):
    view = rng.normal(size=(rows, 4))
    return view, view + 0.5 * rng.normal(size=(rows, 4))


def naive_nt_xent(view_a, view_b):
    z = jnp.concatenate([view_a, view_b])
    z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    scores = z @ z.T / 0.5
    n = len(view_a)
    positives = jnp.tile(jnp.diagonal(scores[:n, n:]), 2)
    others = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, scores)
    return (jnp.log(jnp.exp(others).sum(-1)) - positives).reshape(2, n).mean(0)


def hostile_views(rng):
    view_a, view_b = two_views(rng, 6)
    poles = np.sign(view_a[:, :1]) * np.eye(4)[:1]
    zero_row = np.concatenate([zeros(1, 4), view_a[1:]])
    return {
        "zero rows in both views": ((zero_row, zero_row), {}),
        "entries of 1e25": ((view_a * 1e25, view_b * 1e25), {}),
        "entries of 1e-25": ((view_a * 1e-25, view_b * 1e-25), {}),
        "cosines of +-1 at temperature 0.01": ((poles, poles), {"temperature": 0.01}),
        "opposite views at temperature 0.01": ((poles, -poles), {"temperature": 0.01}),
    }


def inverse_temperature(kwargs):
    """A rounding of a cosine is divided by the temperature."""
    return max(1.0, 1 / kwargs.get("temperature", 0.5))


NT_XENT = LossCase(
    lossfns.nt_xent,
    two_views,
    oracles.nt_xent,
    naive_nt_xent,
    variants=({}, {"temperature": 0.1}, {"block_size": 4}),
    sweep={"temperature": (0.1, 0.2, 0.5)},
    batch_coupled=True,
    condition=inverse_temperature,
    hostile=hostile_views,
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5)), ("(3, 4)", "(3, 5)")),
        BadCall((zeros(3), zeros(3)), ("rank 2", "rank 1", "(3,)")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), ("view_a", "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, 4)), ("temperature", "positive", "0"), {"temperature": 0}),
        BadCall((zeros(3, 4), zeros(3, 4)), ("block_size", "at least 1", "0"), {"block_size": 0}),
    ),
)


# ---- reductions ------------------------------------------------------------------------------------------------------


def weighted_values(rng, rows):
    return rng.normal(size=(2, 3)), rng.uniform(0.5, 2.0, size=(2, 3))


GLOBAL = {"devices = one device": "every device returns the global result; tests/lossfns/test_reduce.py compares them"}
WRONG_WEIGHTS = (BadCall((zeros(2, 3), zeros(4)), ("(2, 3)", "(4,)")),)
WEIGHTED_SUM = LossCase(
    lossfns.weighted_sum,
    weighted_values,
    oracles.weighted_sum,
    lambda values, weights: (values * weights).sum(),
    batched=False,
    bad_calls=WRONG_WEIGHTS,
    skip=GLOBAL,
)
WEIGHTED_MEAN = LossCase(
    lossfns.weighted_mean,
    weighted_values,
    oracles.weighted_mean,
    lambda values, weights: (values * weights).sum() / weights.sum(),
    batched=False,
    bad_calls=WRONG_WEIGHTS,
    skip=GLOBAL,
)


LOSS_TABLE = {
    "absolute_error": ABSOLUTE,
    "huber": HUBER,
    "nt_xent": NT_XENT,
    "softmax_cross_entropy": SOFTMAX,
    "squared_error": SQUARED,
    "weighted_mean": WEIGHTED_MEAN,
    "weighted_sum": WEIGHTED_SUM,
}
