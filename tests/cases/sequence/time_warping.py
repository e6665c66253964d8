"""Cases of `lossfns.sequence.time_warping`."""

import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import INTS, padded, zeros
from tests.oracles.sequence import time_warping as oracles


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


CASES = {
    "soft_dtw": SOFT_DTW,
}
