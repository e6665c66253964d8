"""Cases of `lossfns.preference.log_probs`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.preference._shared import INF
from tests.oracles.preference import log_probs as oracles


def sequences(logits, tokens, answer, *, average=False, where=None):
    """Rows are deleted by masking all of their tokens."""
    answer = answer if where is None else answer & where[:, None]
    return lossfns.sequence_log_probs(logits, tokens, average=average, where=answer)


def sequence_rows(rng, rows):
    tokens = rng.integers(0, 5, (rows, 4)).astype(np.int32)
    return rng.normal(size=(rows, 4, 5)) * 2, tokens, np.arange(4) >= rng.integers(1, 4, (rows, 1))


def naive_sequences(logits, tokens, answer):
    log_probs = jnp.log(jax.nn.softmax(logits[:, :-1], -1))
    return (jnp.take_along_axis(log_probs, tokens[:, 1:, None], -1)[..., 0] * answer[:, 1:]).sum(-1)


def hostile_sequences(rng):
    logits, tokens, answer = sequence_rows(rng, 3)
    masked = np.where(np.arange(5) == tokens[:, :1, None], -INF, logits)
    return {
        "logits + 1e4": ((logits + 1e4, tokens, answer), {}),
        "masked classes": ((masked, np.broadcast_to((tokens[:, :1] + 1) % 5, tokens.shape), answer), {}),
        "an impossible token": ((masked, np.broadcast_to(tokens[:, :1], tokens.shape), answer), {}),
        "a wrong token in the prompt": ((logits, np.where(answer, tokens, -100), answer), {}),
        "no answer": ((logits, tokens, answer & False), {"average": True}),
        "one position": ((logits[:, :1], tokens[:, :1], answer[:, :1]), {}),
    }


SEQUENCE_LOG_PROBS = LossCase(
    sequences,
    sequence_rows,
    oracles.sequence_log_probs,
    naive_sequences,
    name="sequence_log_probs",
    variants=({}, {"average": True}),
    labels=1,
    shift_invariant=(0,),
    hostile=hostile_sequences,
    limits={
        "minus the sum of next_token": lambda x: (
            sequences(*x),
            -lossfns.next_token(jnp.asarray(x[0]), jnp.asarray(x[1]), where=jnp.asarray(x[2])).sum(-1),
        ),
        "padding changes nothing": lambda x: (
            sequences(*(np.concatenate([y, y[:, :2]], 1) for y in x[:2]), np.pad(x[2], ((0, 0), (0, 2)))),
            sequences(*x),
        ),
    },
    bad_calls=(
        BadCall((zeros(2, 3, 4), zeros(2, 4, dtype=np.int32), zeros(2, 4, dtype=bool)), ("tokens", "(2, 3)", "(2, 4)")),
        BadCall((zeros(2, 3, 4), zeros(2, 3), zeros(2, 3, dtype=bool)), ("tokens", "integer", "float32")),
        BadCall((zeros(4), zeros(dtype=np.int32), zeros(dtype=bool)), ("two last axes", "(4,)")),
        BadCall((zeros(2, 3, 4), zeros(2, 3, dtype=np.int32), zeros(2, 3)), ("where", "boolean", "float32")),
        BadCall(
            (zeros(2, 3, 4), zeros(2, 3, dtype=np.int32), zeros(2, 3, dtype=bool)), ("average", "1"), {"average": 1}
        ),
    ),
)


CASES = {
    "sequence_log_probs": SEQUENCE_LOG_PROBS,
}
