"""Cases of `lossfns.reduce`."""

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.oracles import reduce as oracles


def weighted_values(rng, rows):
    return rng.normal(size=(2, 3)), rng.uniform(0.5, 2.0, size=(2, 3))


GLOBAL = {"devices = one device": "every device returns the global result; tests/lossfns/test_reduce.py compares them"}
WRONG_WEIGHTS = (BadCall((zeros(2, 3), zeros(4)), ("(2, 3)", "(4,)")),)
WEIGHTED_SUM = LossCase(
    lossfns.weighted_sum,
    weighted_values,
    oracles.weighted_sum,
    lambda values, weights: (values * weights).sum(),
    batched=False,
    bad_calls=WRONG_WEIGHTS,
    skip=GLOBAL,
)
WEIGHTED_MEAN = LossCase(
    lossfns.weighted_mean,
    weighted_values,
    oracles.weighted_mean,
    lambda values, weights: (values * weights).sum() / weights.sum(),
    batched=False,
    bad_calls=WRONG_WEIGHTS,
    skip=GLOBAL,
)


CASES = {
    "weighted_mean": WEIGHTED_MEAN,
    "weighted_sum": WEIGHTED_SUM,
}
