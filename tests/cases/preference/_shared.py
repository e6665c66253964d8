"""What the cases of several losses share."""

import numpy as np

from lossfns.testing import BadCall
from tests.cases._shared import zeros

INF = np.inf


def four_log_probs(rng, rows):
    """Chosen and rejected answers under the policy, then under the reference."""
    chosen, rejected = -rng.uniform(1, 6, (2, rows))
    return chosen, rejected, chosen + rng.normal(size=rows), rejected + rng.normal(size=rows)


def hostile_answers(rng):
    zero = np.zeros(2)
    long = -rng.uniform(1e3, 2e3, (2, 4))
    return {
        "answers of thousands of nats": ((*long, long[0] + rng.normal(size=4), long[1] + rng.normal(size=4)), {}),
        "an impossible rejected answer": ((zero - 1, np.array([-INF, -2]), zero - 1, zero - 1), {}),
        "an impossible chosen answer": ((np.array([-INF, -2]), zero - 1, zero - 1, zero - 1), {}),
        "strong beta": ((np.array([-1e4, 0]), np.array([0, -1e4]), zero, zero), {"beta": 50.0}),
    }


def wrong_four(name="beta", value=0):
    four = (zeros(3),) * 4
    return (
        BadCall((*four[:3], zeros(3, 1)), ("reference_rejected", "(3,)", "(3, 1)")),
        BadCall((zeros(3), zeros(), *four[:2]), ("policy_rejected", "(3,)", "()")),
        BadCall((zeros(3, dtype=np.int32), *four[:3]), ("policy_chosen", "floating", "int32")),
        BadCall((*four[:2], zeros(3, dtype=np.int32), zeros(3)), ("reference_chosen", "floating", "int32")),
        BadCall(four, (name, str(value)), {name: value}),
    )


def wrong_two(name, value):
    return (
        BadCall((zeros(3), zeros(3, 1)), ("rejected", "(3,)", "(3, 1)")),
        BadCall((zeros(3, dtype=np.int32), zeros(3)), ("chosen", "floating", "int32")),
        BadCall((zeros(3), zeros(3, dtype=np.int32)), ("rejected", "floating", "int32")),
        BadCall((zeros(3), zeros(3)), (name, str(value)), {name: value}),
    )


def hostile_pairs(rng):
    return {
        "averages of +-1e4": ((np.array([-1e4, 0]), np.array([0, -1e4])), {}),
        "impossible": ((np.array([-INF, -1]), np.array([-1, -INF])), {}),
    }


def rewards(rng, rows):
    return tuple(rng.normal(size=(2, rows)) * 2)
