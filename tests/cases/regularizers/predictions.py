"""Cases of `lossfns.regularizers.predictions`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.regularizers._shared import logit_rows, two_passes
from tests.oracles.regularizers import predictions as oracles

INF = np.inf


def hostile_logits(rng):
    return {
        "logits + 1e4": (tuple(x + 1e4 for x in logit_rows(rng, 6)), {}),
        "masked classes": ((np.tile([0.0, -INF, 1, -INF], (6, 1)),), {}),
        "one class left": ((np.tile([-INF, -INF, 1, -INF], (6, 1)),), {}),
    }


WRONG_LOGITS = (
    BadCall((zeros(3, 4, dtype=np.int32),), ("logits", "floating", "int32")),
    BadCall((zeros(),), ("logits", "at least one class", "()")),
    BadCall((zeros(3, 0),), ("logits", "at least one class", "(3, 0)")),
    BadCall((zeros(3, 4),), ("where", "(3,)", "(3, 4)"), {"where": np.ones((3, 4), bool)}),
)


def naive_entropy(logits):
    p = jax.nn.softmax(logits, -1)
    return -(p * jnp.log(p)).sum(-1)


def sure_and_none(rng):
    return hostile_logits(rng) | {
        "a class at +inf": ((np.tile([0.0, INF, 1, -INF], (6, 1)),), {}),
        "no class": ((np.full((6, 4), -INF),), {}),
    }


ENTROPY = LossCase(
    lossfns.entropy_minimization,
    logit_rows,
    oracles.entropy_minimization,
    naive_entropy,
    shift_invariant=(0,),
    non_negative=True,
    limits={
        "uniform probabilities": lambda inputs: (lossfns.entropy_minimization(0 * inputs[0]), np.full(6, np.log(4)))
    },
    hostile=sure_and_none,
    bad_calls=WRONG_LOGITS,
)
CONFIDENCE = LossCase(
    lossfns.confidence_penalty,
    logit_rows,
    oracles.confidence_penalty,
    lambda logits: -naive_entropy(logits),
    variants=({}, {"threshold": 0.8}),
    sweep={"threshold": (0.1, 0.2, 0.3)},
    shift_invariant=(0,),
    limits={
        "minus the entropy": lambda inputs: (
            lossfns.confidence_penalty(*inputs),
            -lossfns.entropy_minimization(*map(jnp.asarray, inputs)),
        )
    },
    hostile=sure_and_none,
    bad_calls=(*WRONG_LOGITS, BadCall((zeros(3, 4),), ("threshold", "at least 0", "-1"), {"threshold": -1})),
)


def naive_r_drop(a, b):
    p, q = jax.nn.softmax(a, -1), jax.nn.softmax(b, -1)
    return ((p - q) * (jnp.log(p) - jnp.log(q))).sum(-1) / 2


R_DROP = LossCase(
    lossfns.r_drop,
    two_passes,
    oracles.r_drop,
    naive_r_drop,
    shift_invariant=(0, 1),
    symmetric=((0, 1),),
    non_negative=True,
    limits={"the same pass": lambda inputs: (lossfns.r_drop(inputs[0], inputs[0]), np.zeros(6))},
    hostile=lambda rng: {
        "masked in both": ((np.tile([0.0, -INF, 1, -INF], (6, 1)), np.tile([1.0, -INF, 1, -INF], (6, 1))), {}),
        "masked in one": ((np.tile([0.0, -INF, 1, 0], (6, 1)), zeros(6, 4)), {}),
    },
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5)), ("logits_b", "(3, 4)", "(3, 5)")),
        BadCall((zeros(3, 0), zeros(3, 0)), ("logits_a", "at least one class", "(3, 0)")),
        BadCall((zeros(3, 4), zeros(3, 4, dtype=np.int32)), ("logits_b", "floating", "int32")),
    ),
)
ROUTER_Z = LossCase(
    lossfns.router_z,
    logit_rows,
    oracles.router_z,
    lambda logits: jnp.log(jnp.exp(logits).sum(-1)) ** 2,
    non_negative=True,
    hostile=lambda rng: hostile_logits(rng) | {"no expert": ((np.full((6, 4), -INF),), {})},
    bad_calls=WRONG_LOGITS,
)


def naive_balance(logits):
    chosen = jax.nn.one_hot(logits.argmax(-1), 4, dtype=logits.dtype).mean(0)
    return jnp.broadcast_to(4 * (chosen * jax.nn.softmax(logits, -1).mean(0)).sum(), logits.shape[:1])


BALANCE = LossCase(
    lossfns.moe_load_balance,
    logit_rows,
    oracles.moe_load_balance,
    naive_balance,
    variants=({}, {"top_k": 2}),
    batch_coupled=True,
    shift_invariant=(0,),
    non_negative=True,
    limits={
        "all experts": lambda inputs: (lossfns.moe_load_balance(*inputs, top_k=4), np.ones(6)),
        "one favourite": lambda inputs: (
            lossfns.moe_load_balance(0 * inputs[0] + np.float32([1e4, 0, 0, 0])),
            np.full(6, 4.0),
        ),
    },
    hostile=hostile_logits,
    bad_calls=(
        *WRONG_LOGITS,
        BadCall((zeros(3, 4),), ("top_k", "4", "5"), {"top_k": 5}),
        BadCall((zeros(3, 4),), ("top_k", "at least 1", "0"), {"top_k": 0}),
    ),
)


CASES = {
    "confidence_penalty": CONFIDENCE,
    "entropy_minimization": ENTROPY,
    "moe_load_balance": BALANCE,
    "r_drop": R_DROP,
    "router_z": ROUTER_Z,
}
