"""Rows of the losses on alignments: CTC, the transducer, soft dynamic time warping."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import sequence as oracles
from tests.rows import zeros

INTS = {"dtype": np.int32}


def padded(x, axis, value):
    """One more place on an axis, with something in it that must not matter."""
    width = [(0, 0)] * x.ndim
    width[axis] = (0, 1)
    return np.pad(x, width, constant_values=value)


def recordings(rng, rows):
    """Four frames of three symbols, two labels; the first row is complete, others lack frames or labels."""
    frames = np.array([4, 4, 3, 4, 2, 4])[np.arange(rows) % 6].astype(np.int32)
    labels = np.array([2, 1, 2, 0, 1, 2])[np.arange(rows) % 6].astype(np.int32)
    return rng.normal(size=(rows, 4, 3)) * 2, rng.integers(1, 3, (rows, 2)).astype(np.int32), frames, labels


def hostile_recordings(rng):
    inf = np.inf
    logits, labels, frames, counts = recordings(rng, 6)
    masked = logits.copy()
    masked[0, 1, 2] = masked[2, :, 0] = masked[4] = -inf
    holes = np.array([[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]], bool)
    doubled = np.array([[1, 1]] * 6, np.int32)
    wrong = (logits, np.array([[0, 1], [1, 0], [1, -1], [3, 1], [2, 2], [1, 2]], np.int32), frames, counts)
    return {
        "-inf logits": ((masked, labels, frames, counts), {}),
        "frames with holes": ((logits, labels, holes, counts), {}),
        "a double letter in as many frames": ((logits, doubled, np.full(6, 2, np.int32), np.full(6, 2, np.int32)), {}),
        "the same, 0": (
            (logits, doubled, np.full(6, 2, np.int32), np.full(6, 2, np.int32)),
            {"blank_id": 2, "zero_infinity": True},
        ),
        "no frame": ((logits, labels, np.zeros(6, np.int32), counts), {}),
        "labels that are blank or out of range": (wrong, {}),
        "lengths out of range": ((logits, labels, frames + 1, counts - 1), {}),
        "certain": ((1e4 * np.eye(3)[[[1, 0, 2, 2]] * 6], labels * 0 + [1, 2], frames * 0 + 4, counts * 0 + 2), {}),
    }


def ctc_of_all(logits, labels):
    return lossfns.ctc(logits, labels)


def frame_marginals(inputs):
    """softmax less gradient is the share of the paths with each symbol at each frame."""
    logits, labels = jnp.asarray(inputs[0]), inputs[1]
    slope = jax.grad(lambda x: ctc_of_all(x, labels).sum())(logits)
    expected = np.zeros(logits.shape)
    for b, row in enumerate(np.asarray(logits, np.float64)):
        log_p = row - np.log(np.exp(row).sum(-1, keepdims=True))
        for path in np.ndindex(*(3,) * 4):
            if oracles.collapsed(path, 0) == labels[b].tolist():
                expected[b, np.arange(4), path] += np.exp(log_p[np.arange(4), path].sum())
    return jax.nn.softmax(logits) - slope, expected / expected.sum(-1, keepdims=True)


def more_frames(inputs):
    logits, labels, frames, counts = inputs
    more = padded(logits, 1, np.nan), padded(labels, 1, -100), frames, counts
    return lossfns.ctc(*more), lossfns.ctc(*inputs)


CTC = LossCase(
    lossfns.ctc,
    recordings,
    oracles.ctc,
    labels=1,
    hostile=hostile_recordings,
    shift_invariant=(0,),
    non_negative=True,
    enumerated=True,
    limits={"marginals of the frames sum to one": frame_marginals, "padding is deleted": more_frames},
    bad_calls=(
        BadCall((zeros(4, 3), zeros(2, 2, **INTS)), ("labels", "(4, 3)", "(2, 2)")),
        BadCall((zeros(3), zeros(2, **INTS)), ("logits", "two last axes", "(3,)")),
        BadCall((zeros(2, 4, 3, **INTS), zeros(2, 2, **INTS)), ("logits", "floating", "int32")),
        BadCall((zeros(2, 4, 3), zeros(2, 2, **INTS)), ("blank_id", "3"), {"blank_id": 3}),
        BadCall((zeros(2, 4, 3), zeros(2, 2, **INTS)), ("blank_id", "-1"), {"blank_id": -1}),
        BadCall((zeros(2, 4, 3), zeros(2, 2, **INTS), zeros(2)), ("logits_where", "integer", "float32")),
        BadCall((zeros(2, 4, 3), zeros(2, 2, **INTS), zeros(2, 3, dtype=bool)), ("logits_where", "(2, 4)", "(2, 3)")),
        BadCall((zeros(2, 4, 3), zeros(2, 2, **INTS)), ("zero_infinity", "1"), {"zero_infinity": 1}),
    ),
)


def joint_recordings(rng, rows):
    _, labels, frames, counts = recordings(rng, rows)
    return rng.normal(size=(rows, 3, 3, 3)) * 2, labels, np.minimum(frames, 3), counts


def hostile_joint(rng):
    logits, labels, frames, counts = joint_recordings(rng, 6)
    masked = logits.copy()
    masked[0, 1, 1, 2] = masked[2, :, :, 0] = masked[4] = -np.inf
    holes = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]], bool)
    wrong = np.array([[0, 1], [1, 0], [1, -1], [3, 1], [2, 2], [1, 2]], np.int32)
    return {
        "-inf logits": ((masked, labels, frames, counts), {}),
        "frames with holes": ((logits, labels, holes, counts), {}),
        "no frame": ((logits, labels, np.zeros(6, np.int32), counts), {}),
        "labels that are blank or out of range": ((logits, wrong, frames, counts), {}),
        "lengths out of range": ((logits, labels, frames + 1, counts - 1), {}),
    }


def more_joint_frames(inputs):
    logits, labels, frames, counts = inputs
    more = padded(padded(logits, 1, np.nan), 2, np.nan), padded(labels, 1, -100), frames, counts
    return lossfns.rnn_transducer(*more), lossfns.rnn_transducer(*inputs)


def visits(inputs):
    """Each path has one blank at each frame: the gradient is reached * p - visits, with no visit of a third symbol."""
    logits, labels = jnp.asarray(inputs[0]), jnp.asarray(inputs[1])
    slope, p = jax.grad(lambda x: lossfns.rnn_transducer(x, labels).sum())(logits), jax.nn.softmax(logits)
    third = jnp.concatenate([3 - labels, jnp.ones_like(labels[:, :1])], 1)[:, None, :, None]
    reached = jnp.take_along_axis(slope, third, -1) / jnp.take_along_axis(p, third, -1)
    blanks = (reached * p - slope)[..., 0].sum(-1)
    return blanks, np.ones(blanks.shape)


RNN_TRANSDUCER = LossCase(
    lossfns.rnn_transducer,
    joint_recordings,
    oracles.rnn_transducer,
    labels=1,
    hostile=hostile_joint,
    shift_invariant=(0,),
    non_negative=True,
    enumerated=True,
    limits={"padding is deleted": more_joint_frames, "one blank for each frame": visits},
    bad_calls=(
        BadCall((zeros(2, 4, 3, 3), zeros(2, 3, **INTS)), ("labels", "(2, 2)", "(2, 3)")),
        BadCall((zeros(3, 3), zeros(2, **INTS)), ("logits", "three last axes", "(3, 3)")),
        BadCall((zeros(2, 4, 3, 3, **INTS), zeros(2, 2, **INTS)), ("logits", "floating", "int32")),
        BadCall((zeros(2, 4, 3, 3), zeros(2, 2, **INTS)), ("blank_id", "3"), {"blank_id": 3}),
        BadCall((zeros(2, 4, 3, 3), zeros(2, 2, **INTS)), ("blank_id", "0.5"), {"blank_id": 0.5}),
        BadCall((zeros(2, 4, 3, 3), zeros(2, 2, **INTS), zeros(3, **INTS)), ("frames_where", "(2,)", "(3,)")),
    ),
)


def series(rng, rows):
    return rng.normal(size=(rows, 3, 2)), rng.normal(size=(rows, 4, 2))


def hostile_series(rng):
    x, y = series(rng, 4)
    lengths = np.array([3, 0, 2, 0], np.int32)
    holes = np.array([[1, 0, 1, 1], [1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
    return {
        "equal series": ((x, x), {}),
        "steps absent": ((x, y, lengths, holes), {}),
        "lengths out of range": ((x, y, lengths + 1, lengths - 1), {}),
        "a small gamma": ((x, y), {"gamma": 1e-3}),
        "one step each": ((x[:, :1], y[:, :1]), {}),
    }


def hard_limit(inputs):
    x, y = (np.asarray(a, np.float64) for a in inputs)
    hard = [
        min(sum(((a[i] - b[j]) ** 2).sum() for i, j in path) for path in oracles.alignments(3, 4))
        for a, b in zip(x, y, strict=True)
    ]
    return lossfns.soft_dtw(*inputs, gamma=1e-6), np.array(hard)


def divergence_of_equals(inputs):
    x, y = inputs
    others = np.concatenate([x, y[:, :3]])
    ours = lossfns.soft_dtw(np.concatenate([x, x]), others, gamma=0.5, divergence=True)
    theirs = oracles.soft_dtw(np.float64(x), np.float64(y[:, :3]), gamma=0.5, divergence=True)
    return ours, np.concatenate([np.zeros(len(x)), theirs])


def more_steps(inputs):
    x, y = inputs
    counts = np.full(len(x), 3, np.int32), np.full(len(x), 4, np.int32)
    return lossfns.soft_dtw(padded(x, 1, np.nan), padded(y, 1, np.inf), *counts), lossfns.soft_dtw(x, y)


SOFT_DTW = LossCase(
    lossfns.soft_dtw,
    series,
    oracles.soft_dtw,
    sweep={"gamma": (0.5, 1.0, 2.0)},
    hostile=hostile_series,
    enumerated=True,
    limits={
        "the hard minimum": hard_limit,
        "padding is deleted": more_steps,
        "the divergence of equal series is 0": divergence_of_equals,
    },
    bad_calls=(
        BadCall((zeros(2, 3, 2), zeros(2, 3, 1)), ("targets", "(2, 3, 2)", "(2, 3, 1)")),
        BadCall((zeros(3), zeros(3)), ("predictions", "[..., steps, features]", "(3,)")),
        BadCall((zeros(2, 3, 2), zeros(2, 3, 2)), ("gamma", "0"), {"gamma": 0}),
        BadCall((zeros(2, 3, 2, **INTS), zeros(2, 3, 2)), ("predictions", "floating", "int32")),
        BadCall(
            (zeros(2, 3, 2), zeros(2, 3, 2), zeros(2, **INTS), zeros(3, 3, dtype=bool)), ("targets_where", "(3, 3)")
        ),
    ),
)


ROWS = {
    "ctc": CTC,
    "rnn_transducer": RNN_TRANSDUCER,
    "soft_dtw": SOFT_DTW,
}
