"""Rows of GRPO and its relatives."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import reinforcement as oracles
from tests.rows import zeros


def answers(rng, rows):
    """Tokens of three answers to each prompt, some far from the old policy, and the answers' rewards."""
    new = -rng.uniform(0.1, 3, (rows, 3, 2))
    return new, new + rng.choice([-0.5, -0.05, 0.05, 0.5], new.shape), rng.normal(size=(rows, 3))


def naive_grpo(log_probs, old_log_probs, rewards):
    ratio = jnp.exp(log_probs - old_log_probs)
    centred = rewards - rewards.mean(-1, keepdims=True)
    advantages = (centred / (rewards.std(-1, ddof=1, keepdims=True) + 1e-4))[..., None]
    return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 0.8, 1.2) * advantages)


def hostile_answers(rng):
    new, old, rewards = answers(rng, 3)
    far = np.where(np.arange(2) == 0, 0, -1e3) + zeros(3, 3, 2)
    return {
        "equal rewards": ((new, old, 0 * rewards), {}),
        "right or wrong": ((new, old, np.eye(3)), {}),
        "ratios that vanish": ((far, 0 * far, rewards), {}),
    }


WRONG_ANSWERS = (
    BadCall((zeros(2, 3, 4), zeros(2, 3, 5), zeros(2, 3)), ("old_log_probs", "(2, 3, 4)", "(2, 3, 5)")),
    BadCall((zeros(2, 3, 4), zeros(2, 3, 4), zeros(2)), ("rewards", "(2, 3)", "(2,)")),
    BadCall((zeros(2, 3, 4), zeros(2, 3, 4), zeros(2, 3, dtype=np.int32)), ("rewards", "floating", "int32")),
    BadCall((zeros(4), zeros(4), zeros()), ("answers", "tokens", "(4,)")),
)
ANSWERS = zeros(2, 3, 4), zeros(2, 3, 4), zeros(2, 3)
GRPO = LossCase(
    lossfns.grpo,
    answers,
    oracles.grpo,
    naive_grpo,
    variants=({}, {"baseline": "none", "ratio": "sequence"}),
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
        BadCall(ANSWERS, ("baseline", "group", "mean"), {"baseline": "mean"}),
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


CLIPS = {"clip_low": (0.1, 0.2, 0.3), "clip_high": (0.2, 0.3, 0.4)}


def preset(loss, oracle_options, **options):
    sweep = {**CLIPS, "epsilon": (1e-8, 1e-6, 1e-4)}
    return LossCase(
        loss,
        answers,
        lambda *x, **kwargs: oracles.grpo(*x, **{**oracle_options, **kwargs}),
        differentiable=(0,),
        **{"hostile": hostile_answers, "sweep": sweep, "bad_calls": WRONG_ANSWERS} | options,
    )


CISPO = preset(
    lossfns.cispo,
    {"surrogate_form": "weight", "clip_low": 1.0, "clip_high": 4.0},
    skip={"gradients": "the ratio is a constant for the gradient; tests/lossfns/test_reinforcement.py works it out"},
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


ROWS = {
    "cispo": CISPO,
    "dapo": preset(lossfns.dapo, {"clip_high": 0.28}),
    "dr_grpo": preset(
        lossfns.dr_grpo,
        {"scale": "none"},
        variants=({}, {"length": 8.0}),
        sweep={**CLIPS, "length": (4.0, 8.0, 16.0)},
        bad_calls=(*WRONG_ANSWERS, BadCall(ANSWERS, ("length", "positive", "0"), {"length": 0})),
    ),
    "grpo": GRPO,
    "grpo with a reference": GRPO_WITH_REFERENCE,
    "gspo": preset(lossfns.gspo, {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}),
    "token_weights": TOKEN_WEIGHTS,
}
