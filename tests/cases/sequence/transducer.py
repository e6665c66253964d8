"""Cases of `lossfns.sequence.transducer`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import INTS, padded, zeros
from tests.cases.sequence._shared import recordings
from tests.oracles.sequence import transducer as oracles


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


CASES = {
    "rnn_transducer": RNN_TRANSDUCER,
}
