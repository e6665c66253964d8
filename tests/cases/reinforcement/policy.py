"""Cases of `lossfns.reinforcement.policy`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.oracles.reinforcement import policy as oracles

INF = np.inf


def scored_actions(rng, rows):
    return -rng.uniform(0.1, 3, (rows, 3)), rng.normal(size=(rows, 3))


POLICY_GRADIENT = LossCase(
    lossfns.policy_gradient,
    scored_actions,
    oracles.policy_gradient,
    lambda log_probs, advantages: -log_probs * advantages,
    element_masks=True,
    differentiable=(0,),  # advantages are constants for the gradient
    hostile=lambda rng: {
        "impossible actions": ((np.array([-INF, -INF, -INF]), np.array([0.0, 1, -1])), {}),
    },
    bad_calls=(
        BadCall((zeros(3, 2), zeros(3)), ("advantages", "(3, 2)", "(3,)")),
        BadCall((zeros(3), zeros(3, dtype=np.int32)), ("advantages", "floating", "int32")),
        BadCall((zeros(3, dtype=np.int32), zeros(3)), ("log_probs", "floating", "int32")),
    ),
)


def moved_actions(rng, rows):
    """Ratios inside and outside of the bounds, none at them."""
    new = -rng.uniform(0.1, 3, (rows, 3))
    return new, new + rng.choice([-1.5, -0.5, -0.05, 0.05, 0.5, 1.5], (rows, 3)), rng.normal(size=(rows, 3))


def naive_ppo(log_probs, old_log_probs, advantages):
    ratio = jnp.exp(log_probs - old_log_probs)
    return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 0.8, 1.2) * advantages)


def hostile_actions(rng):
    new = np.array([0.0, 0, -1e4, -1e4, 0, -INF, -INF])
    old = np.array([-1e4, -1e4, 0, 0, -1e4, -1, -1])
    sign = np.array([1.0, -1, 1, -1, 0, 1, -1])
    return {
        "ratios of e^+-10000": ((new, old, sign), {}),
        "ratios of e^+-10000, a dual clip": ((new, old, sign), {"dual_clip": 3.0}),
        "no lower bound": (moved_actions(rng, 2), {"clip_low": 1.0}),
    }


PPO_CLIP = LossCase(
    lossfns.ppo_clip,
    moved_actions,
    oracles.ppo_clip,
    naive_ppo,
    variants=({}, {"clip_low": 0.1, "clip_high": 0.28, "dual_clip": 3.0}),
    sweep={"clip_low": (0.1, 0.2, 0.3), "clip_high": (0.1, 0.2, 0.3), "dual_clip": (2.0, 3.0, 4.0)},
    element_masks=True,
    differentiable=(0,),
    hostile=hostile_actions,
    limits={
        "minus the advantage at the old policy": lambda x: (lossfns.ppo_clip(x[0], x[0], x[2]), -x[2]),
    },
    bad_calls=(
        BadCall((zeros(3, 2), zeros(3, 2), zeros(3)), ("advantages", "(3, 2)", "(3,)")),
        BadCall((zeros(3), zeros(3, 1), zeros(3)), ("old_log_probs", "(3,)", "(3, 1)")),
        BadCall((zeros(3, dtype=np.int32), zeros(3), zeros(3)), ("log_probs", "floating", "int32")),
        BadCall((zeros(3), zeros(3), zeros(3)), ("clip_low", "1.2"), {"clip_low": 1.2}),
        BadCall((zeros(3), zeros(3), zeros(3)), ("clip_high", "-0.2"), {"clip_high": -0.2}),
        BadCall((zeros(3), zeros(3), zeros(3)), ("dual_clip", "above 1", "1"), {"dual_clip": 1}),
    ),
)


def predicted_values(rng, rows):
    values = rng.normal(size=(rows, 3))
    return values, values + rng.choice([-0.5, -0.1, 0.1, 0.5], (rows, 3)), rng.normal(size=(rows, 3)) * 2


def naive_value_clip(values, old_values, returns):
    held = old_values + jnp.clip(values - old_values, -0.2, 0.2)
    return jnp.maximum((values - returns) ** 2, (held - returns) ** 2) / 2


VALUE_CLIP = LossCase(
    lossfns.value_clip,
    predicted_values,
    oracles.value_clip,
    naive_value_clip,
    variants=({}, {"clip": None}),
    sweep={"clip": (0.1, 0.2, 0.3)},
    element_masks=True,
    differentiable=(0,),
    hostile=lambda rng: {"all at the target": ((zeros(3),) * 3, {})},
    non_negative=True,
    limits={
        "half the squared error without a clip": lambda x: (
            lossfns.value_clip(*x, clip=None),
            lossfns.squared_error(jnp.asarray(x[0]), jnp.asarray(x[2])) / 2,
        )
    },
    bad_calls=(
        BadCall((zeros(3), zeros(3, 1), zeros(3)), ("old_values", "(3,)", "(3, 1)")),
        BadCall((zeros(3), zeros(3), zeros(3, dtype=np.int32)), ("returns", "floating", "int32")),
        BadCall((zeros(3), zeros(3), zeros(3)), ("clip", "positive", "0"), {"clip": 0}),
    ),
)


def hostile_policies(rng):
    return {
        "logits + 1e4": ((rng.normal(size=(3, 5)) + 1e4,), {}),
        "masked classes": ((np.array([[0, -INF, 1.0], [-INF, -INF, 3]]),), {}),
        "infinite logits": ((np.array([[0, INF, 1.0], [INF, INF, -INF]]),), {}),
        "no class": ((np.array([[-INF, -INF], [0, 0]]),), {}),
        "one class": ((np.array([[7.0]]),), {}),
    }


def naive_entropy(logits):
    p = jax.nn.softmax(logits, -1)
    return (p * jnp.log(p)).sum(-1)


ENTROPY_BONUS = LossCase(
    lossfns.entropy_bonus,
    lambda rng, rows: (rng.normal(size=(rows, 5)) * 2,),
    oracles.entropy_bonus,
    naive_entropy,
    shift_invariant=(0,),
    hostile=hostile_policies,
    limits={
        "-log V at uniform probabilities": lambda x: (
            lossfns.entropy_bonus(0 * x[0]),
            np.full(x[0].shape[:-1], -np.log(5)),
        )
    },
    bad_calls=(
        BadCall((zeros(),), ("logits", "()")),
        BadCall((zeros(3, 0),), ("at least one class", "(3, 0)")),
        BadCall((zeros(3, 2, dtype=np.int32),), ("logits", "floating", "int32")),
    ),
)


def two_policies(rng, rows):
    new = -rng.uniform(0.1, 3, (rows, 3))
    return new, new + rng.normal(size=(rows, 3))


def naive_k3(log_probs, reference_log_probs):
    return jnp.exp(reference_log_probs - log_probs) - 1 - (reference_log_probs - log_probs)


KL_ESTIMATE = LossCase(
    lossfns.kl_estimate,
    two_policies,
    oracles.kl_estimate,
    naive_k3,
    variants=({}, {"kind": "k2"}),
    element_masks=True,
    differentiable=(0,),
    hostile=lambda rng: {
        "nearly equal": ((np.array([-1.0, -1, -1]), np.array([-1 + 1e-6, -1 - 1e-3, -1.4999])), {}),
        "far apart": ((np.array([-80.0, 0.0]), np.array([0.0, -80.0])), {}),
        "impossible under the reference": ((np.array([-1.0]), np.array([-INF])), {}),
    },
    limits={
        **{
            f"0 for one policy ({kind})": lambda x, kind=kind: (
                lossfns.kl_estimate(x[0], x[0], kind=kind),
                np.zeros(x[0].shape),
            )
            for kind in ("k1", "k2", "k3")
        },
        "k1 is the difference": lambda x: (lossfns.kl_estimate(*x, kind="k1"), x[0] - x[1]),
        "k3 tends to k2": lambda x: (
            1e4 * lossfns.kl_estimate(1e-3 * x[0], 0 * x[0]),
            1e4 * lossfns.kl_estimate(1e-3 * x[0], 0 * x[0], kind="k2") * (1 - 1e-3 * x[0] / 3 + 1e-6 * x[0] ** 2 / 12),
        ),
    },
    non_negative=True,
    # e^d of a rounded difference d of a few nats is wrong by d roundings.
    ulps=64,
    bad_calls=(
        BadCall((zeros(3, 2), zeros(3)), ("reference_log_probs", "(3, 2)", "(3,)")),
        BadCall((zeros(3, dtype=np.int32), zeros(3)), ("log_probs", "floating", "int32")),
        BadCall((zeros(3), zeros(3)), ("k1", "k2", "k3", "k4"), {"kind": "k4"}),
    ),
)


CASES = {
    "entropy_bonus": ENTROPY_BONUS,
    "kl_estimate": KL_ESTIMATE,
    "policy_gradient": POLICY_GRADIENT,
    "ppo_clip": PPO_CLIP,
    "value_clip": VALUE_CLIP,
}
