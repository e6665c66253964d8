"""Cases of `lossfns.sequence.ctc`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import INTS, padded, zeros
from tests.cases.sequence._shared import recordings
from tests.oracles.sequence import ctc as oracles


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


CASES = {
    "ctc": CTC,
}
