"""Cases of `lossfns.reinforcement.advantages`."""

import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.oracles.reinforcement import advantages as oracles


def discounted_rows(rng, rows):
    return rng.normal(size=(rows, 4)), rng.normal(size=(rows, 4))


GAE = LossCase(
    lossfns.gae,
    discounted_rows,
    oracles.gae,
    variants=({}, {"discount": 0.9, "decay": 0.5}),
    sweep={"discount": (0.9, 0.95, 0.99), "decay": (0.9, 0.95, 0.99)},
    hostile=lambda rng: {
        "no step": ((zeros(2, 0), zeros(2, 0)), {}),
        "one step": ((zeros(2, 1) + 1, zeros(2, 1)), {}),
        "a value that is not a number": ((np.array([[1.0, np.nan, 1, 1]]), zeros(1, 4)), {}),
    },
    limits={
        "decay 1 is the return minus the value": lambda x: (
            lossfns.gae(*x, decay=1.0),
            np.cumsum(x[0][:, ::-1], axis=1)[:, ::-1] - x[1],
        )
    },
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5)), ("values", "(3, 4)", "(3, 5)")),
        BadCall((zeros(), zeros()), ("rewards", "scalar")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), ("rewards", "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, 4)), ("discount", "1.1"), {"discount": 1.1}),
        BadCall((zeros(3, 4), zeros(3, 4)), ("decay", "-1"), {"decay": -1}),
        BadCall((zeros(3, 4), zeros(3, 4)), ("bootstrap", "(3,)", "(3, 4)"), {"bootstrap": zeros(3, 4)}),
        BadCall((zeros(3, 4), zeros(3, 4)), ("ends", "boolean", "float32"), {"ends": zeros(3, 4)}),
    ),
)


def gae_of_episodes(rewards, values, bootstrap, ends, *, where=None):
    return lossfns.gae(rewards, values, discount=0.9, decay=0.5, bootstrap=bootstrap, ends=ends, where=where)


def episodes(rng, rows):
    return *discounted_rows(rng, rows), rng.normal(size=rows), rng.random((rows, 4)) < 0.3


def beyond_the_end(rng):
    """A NaN after an end affects nothing before it."""
    rewards, values, bootstrap, _ = episodes(rng, 6)
    ends = np.zeros((6, 4), bool)
    ends[:, 1], ends[:, 3] = True, np.arange(6) < 3
    odd_rewards, odd_values = rewards.copy(), values.copy()
    odd_rewards[1, 2], odd_values[2, 3], odd_values[4, 2] = np.nan, np.inf, np.nan
    return {
        "no number after the end": ((rewards, values, np.full(6, np.nan), ends), {}),
        "no number in the next episode": ((odd_rewards, odd_values, bootstrap, ends), {}),
    }


GAE_OF_EPISODES = LossCase(
    gae_of_episodes,
    episodes,
    lambda *x: oracles.gae(*x, discount=0.9, decay=0.5),
    hostile=beyond_the_end,
)


def grouped_rewards(rng, rows):
    return (rng.normal(size=(rows, 4)),)


def hostile_groups(rng):
    return {
        "right or wrong": ((np.array([[1.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]),), {}),
        "rewards + 1e4": ((grouped_rewards(rng, 3)[0] + 1e4,), {}),
        "groups of one": ((zeros(3, 1) + 2,), {}),
        "groups of none": ((zeros(3, 0),), {}),
    }


WRONG_REWARDS = (
    BadCall((zeros(),), ("rewards", "scalar")),
    BadCall((zeros(3, 4, dtype=np.int32),), ("rewards", "floating", "int32")),
    BadCall((zeros(3, 4),), ("where", "(3, 4)", "(3,)"), {"where": np.ones(3, bool)}),
)
NO_GRADIENT = ()
RLOO = LossCase(
    lossfns.rloo,
    grouped_rewards,
    oracles.rloo,
    differentiable=NO_GRADIENT,
    hostile=hostile_groups,
    limits={
        "they sum to 0": lambda x: (lossfns.rloo(*x).sum(-1), np.zeros(len(x[0]))),
        "GRPO's without its scale, times n / (n - 1)": lambda x: (
            lossfns.rloo(*x),
            lossfns.group_advantages(*x, scale=False) * 4 / 3,
        ),
    },
    bad_calls=WRONG_REWARDS,
    # The oracle's inputs are float32 numbers near 1e4 in one case: their differences have lost digits.
    ulps=32,
)
GROUP_ADVANTAGES = LossCase(
    lossfns.group_advantages,
    grouped_rewards,
    oracles.group_advantages,
    variants=({}, {"ddof": 0, "epsilon": 0.0}, {"scale": False}),
    sweep={"ddof": (0, 1, 0), "epsilon": (1e-8, 1e-6, 1e-4)},
    unlike_differences={"ddof": "a whole number"},
    differentiable=NO_GRADIENT,
    hostile=hostile_groups,
    limits={"they sum to 0": lambda x: (lossfns.group_advantages(*x).sum(-1), np.zeros(len(x[0])))},
    bad_calls=(
        *WRONG_REWARDS,
        BadCall((zeros(3, 4),), ("ddof", "0 or 1", "2"), {"ddof": 2}),
        BadCall((zeros(3, 4),), ("epsilon", "-1"), {"epsilon": -1}),
        BadCall((zeros(3, 4),), ("scale", "1"), {"scale": 1}),
    ),
)


CASES = {
    "gae": GAE,
    "gae of episodes": GAE_OF_EPISODES,
    "group_advantages": GROUP_ADVANTAGES,
    "rloo": RLOO,
}
