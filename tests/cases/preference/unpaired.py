"""Cases of `lossfns.preference.unpaired`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.oracles.preference import unpaired as oracles


def marked_answers(rng, rows):
    policy, reference = -rng.uniform(1, 6, (2, rows))
    return policy, reference, rng.integers(0, 2, rows).astype(np.int32)


def kto_rows(rng, rows):
    off = -rng.uniform(1, 6, rows)
    return *marked_answers(rng, rows), off, off - rng.uniform(-0.5, 2, rows)


def naive_kto(policy, reference, desirable, off_policy, off_reference):
    z = jax.lax.stop_gradient(jnp.maximum(0, (off_policy - off_reference).mean()))
    gain = 0.1 * (policy - reference - z)
    return jnp.where(desirable == 1, 1 - jax.nn.sigmoid(gain), 1 - jax.nn.sigmoid(-gain))


def hostile_kto(rng):
    policy, reference, desirable, off_policy, off_reference = kto_rows(rng, 4)
    return {
        "a divergence below 0": ((policy, reference, desirable, off_reference - 5, off_policy), {}),
        "booleans": ((policy, reference, desirable == 1, off_policy, off_reference), {}),
        "strong beta": ((policy * 1e3, reference, desirable, off_policy, off_reference), {"beta": 50.0}),
    }


KTO = LossCase(
    lossfns.kto,
    kto_rows,
    oracles.kto,
    naive_kto,
    variants=({}, {"beta": 0.5, "desirable_weight": 1.5, "undesirable_weight": 0.5}),
    sweep={"beta": (0.1, 0.2, 0.5), "desirable_weight": (1.0, 1.2, 1.33), "undesirable_weight": (1.0, 1.2, 1.33)},
    labels=2,
    num_classes=lambda *x: 2,
    batch_coupled=True,
    differentiable=(0, 1),  # the point of reference is a constant for the gradient
    nan_stays=dict.fromkeys((0, 1), "the rows share the gain of the mismatched answers alone"),
    hostile=hostile_kto,
    non_negative=True,
    bad_calls=(
        BadCall((zeros(3), zeros(3), zeros(3), zeros(3), zeros(3)), ("desirable", "boolean", "float32")),
        BadCall((zeros(3), zeros(3), zeros(3, dtype=bool), zeros(1), zeros(3)), ("mismatched_policy", "(3,)", "(1,)")),
        BadCall((zeros(3, dtype=np.int32), *(zeros(3, dtype=bool),) * 4), ("policy", "floating", "int32")),
        BadCall((zeros(3), zeros(3), zeros(3, dtype=bool), zeros(3), zeros(3)), ("beta", "0"), {"beta": 0}),
    ),
)


def naive_bco(policy, reference, desirable):
    logit = 0.1 * (policy - reference)
    return -jnp.log(jnp.where(desirable == 1, jax.nn.sigmoid(logit), jax.nn.sigmoid(-logit)))


BCO = LossCase(
    lossfns.bco,
    marked_answers,
    oracles.bco,
    naive_bco,
    variants=({}, {"beta": 0.5, "shift": -0.3}),
    sweep={"beta": (0.1, 0.2, 0.5), "shift": (0.0, 0.5, 1.0)},
    unlike_differences={"shift": "it is the mean of earlier rewards, a constant"},
    labels=2,
    num_classes=lambda *x: 2,
    hostile=lambda rng: {"strong beta": (marked_answers(rng, 4), {"beta": 1e4})},
    non_negative=True,
    limits={
        "binary cross-entropy": lambda x: (
            lossfns.bco(*x, beta=0.5, shift=0.25),
            lossfns.sigmoid_cross_entropy(jnp.asarray(0.5 * (x[0] - x[1]) - np.float32(0.25)), jnp.asarray(x[2])),
        )
    },
    outside={2: (-1, 2)},
    bad_calls=(
        BadCall((zeros(3), zeros(3), zeros(3)), ("desirable", "boolean", "float32")),
        BadCall((zeros(3), zeros(2), zeros(3, dtype=bool)), ("reference", "(3,)", "(2,)")),
        BadCall((zeros(3), zeros(3), zeros(3, 1, dtype=bool)), ("desirable", "(3,)", "(3, 1)")),
        BadCall((zeros(3), zeros(3), zeros(3, dtype=bool)), ("beta", "-1"), {"beta": -1}),
    ),
)


def reward_shift(rewards, *, where=None, axis_name=None):
    state = lossfns.RewardShift(jnp.asarray(2.0, jnp.float32), jnp.asarray(3.0, jnp.float32))
    return jnp.stack(lossfns.update_reward_shift(state, rewards, where=where, axis_name=axis_name))


REWARD_SHIFT = LossCase(
    reward_shift,
    lambda rng, rows: (rng.normal(size=rows),),
    oracles.reward_shift,
    name="update_reward_shift",
    batched=False,
    differentiable=(),
    hostile=lambda rng: {"no reward": ((np.zeros(0),), {})},
    bad_calls=(
        BadCall((zeros(3, dtype=np.int32),), ("rewards", "floating", "int32")),
        BadCall((zeros(3),), ("where", "(3,)", "(2,)"), {"where": np.ones(2, bool)}),
        BadCall((zeros(3),), ("where", "boolean", "float32"), {"where": zeros(3)}),
    ),
    skip={"devices = one device": "every device returns the global mean; tests/lossfns/test_preference.py compares"},
)


CASES = {
    "bco": BCO,
    "kto": KTO,
    "update_reward_shift": REWARD_SHIFT,
}
