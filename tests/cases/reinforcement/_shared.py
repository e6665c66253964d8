"""What the cases of several losses share."""

import numpy as np

from lossfns.testing import BadCall
from tests.cases._shared import zeros
from tests.oracles.reinforcement.groups import grpo


def answers(rng, rows):
    """Tokens of three answers to each prompt, some far from the old policy, and the answers' rewards."""
    new = -rng.uniform(0.1, 3, (rows, 3, 2))
    return new, new + rng.choice([-0.5, -0.05, 0.05, 0.5], new.shape), rng.normal(size=(rows, 3))


def of_paper(*arrays, advantages="standardised", **options):
    """The oracle of GRPO and its relatives, which says in two options what `advantages` says."""
    options |= {"standardised": {}, "centred": {"scale": "none"}, "given": {"baseline": "none"}}[advantages]
    return grpo(*arrays, **options)


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
