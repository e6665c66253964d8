"""Cases of `lossfns.reinforcement.groups`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.reinforcement._shared import ANSWERS, WRONG_ANSWERS, answers, hostile_answers, of_paper
from tests.oracles.reinforcement import groups as oracles


def naive_grpo(log_probs, old_log_probs, rewards):
    ratio = jnp.exp(log_probs - old_log_probs)
    centred = rewards - rewards.mean(-1, keepdims=True)
    advantages = (centred / (rewards.std(-1, ddof=1, keepdims=True) + 1e-4))[..., None]
    return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 0.8, 1.2) * advantages)


GRPO = LossCase(
    lossfns.grpo,
    answers,
    of_paper,
    naive_grpo,
    variants=({}, {"advantages": "given"}, {"advantages": "centred"}),
    sweep={
        "ddof": (0, 1, 0),
        "epsilon": (1e-8, 1e-6, 1e-4),
        "clip_low": (0.1, 0.2, 0.3),
        "clip_high": (0.2, 0.28, 0.3),
    },
    unlike_differences={"ddof": "a whole number"},
    differentiable=(0,),  # the old policy and the rewards are constants for the gradient
    hostile=hostile_answers,
    limits={
        "PPO of the group's advantages": lambda x: (
            lossfns.grpo(*x),
            lossfns.ppo_clip(*x[:2], np.repeat(lossfns.group_advantages(x[2])[..., None], x[0].shape[-1], -1)),
        )
    },
    bad_calls=(
        *WRONG_ANSWERS,
        BadCall((zeros(2, 3, 4, dtype=np.int32), *ANSWERS[1:]), ("log_probs", "floating", "int32")),
        BadCall(ANSWERS, ("ddof", "0 or 1", "2"), {"ddof": 2}),
        BadCall(ANSWERS, ("clip_low", "1.5"), {"clip_low": 1.5}),
        BadCall(ANSWERS, ("advantages", "given", "mean"), {"advantages": "mean"}),
        BadCall(ANSWERS, ("length", "constant", "sequence"), {"length": 8}),
        BadCall(ANSWERS, ("normalizer", "tokens"), {"normalizer": "tokens"}),
        BadCall(ANSWERS, ("reference_log_probs", "(2, 3, 4)", "(2, 3)"), {"reference_log_probs": zeros(2, 3)}),
    ),
)


def grpo_with_reference(log_probs, old_log_probs, rewards, reference_log_probs, *, kl_weight=0.04, where=None):
    options = {"kl_weight": kl_weight, "normalizer": "constant", "length": 8.0}
    return lossfns.grpo(
        log_probs, old_log_probs, rewards, reference_log_probs=reference_log_probs, where=where, **options
    )


def answers_with_reference(rng, rows):
    new, old, rewards = answers(rng, rows)
    return new, old, rewards, new + rng.normal(size=new.shape)


GRPO_WITH_REFERENCE = LossCase(
    grpo_with_reference,
    answers_with_reference,
    lambda *x, kl_weight=0.04: oracles.grpo(*x, kl_weight=kl_weight, length=8.0),
    sweep={"kl_weight": (0.01, 0.04, 0.1)},
    differentiable=(0,),
    # e^d of a rounded difference d of a few nats is wrong by d roundings; peaked inputs have tens of nats.
    ulps=64,
)


def weights_of_tokens(where_tokens, *, where=None, **options):
    """Rows are deleted by masking all of their tokens."""
    return lossfns.token_weights(where_tokens if where is None else where_tokens & where, **options)


def some_tokens(rng, rows):
    return (np.arange(4) < rng.integers(0, 5, (rows, 3, 1)),)


MASK_IN = "a mask goes in: it has no precision"
TOKEN_WEIGHTS = LossCase(
    weights_of_tokens,
    some_tokens,
    oracles.token_weights,
    name="token_weights",
    variants=({}, {"normalizer": "group_tokens"}, {"normalizer": "constant"}, {"normalizer": "global_tokens"}),
    hostile=lambda rng: {"the tokens of the batch": (some_tokens(rng, 3), {"normalizer": "batch_tokens"})},
    limits={
        "the weights of an answer sum to 1": lambda x: (lossfns.token_weights(x[0]).sum(-1), x[0].any(-1)),
        "the weights of the batch sum to 1": lambda x: (
            lossfns.token_weights(x[0], normalizer="batch_tokens").sum(),
            1.0,
        ),
    },
    bad_calls=(
        BadCall((zeros(3, 4),), ("where", "boolean", "float32")),
        BadCall((np.ones(3, bool),), ("2 axes", "group_tokens", "(3,)"), {"normalizer": "group_tokens"}),
        BadCall((np.ones(3, bool),), ("sequence", "tokens"), {"normalizer": "tokens"}),
    ),
    skip={
        "low precision": MASK_IN,
        "result dtype": MASK_IN,
        "masked = deleted": "its result is weights, not values",
        "the mask given once": "its result is weights, not values",
    },
)


CASES = {
    "grpo": GRPO,
    "grpo with a reference": GRPO_WITH_REFERENCE,
    "token_weights": TOKEN_WEIGHTS,
}
