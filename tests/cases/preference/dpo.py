"""Cases of `lossfns.preference.dpo`."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.preference._shared import four_log_probs, hostile_answers, wrong_four
from tests.oracles.preference import dpo as oracles


def naive_margin(chosen, rejected, base_chosen, base_rejected):
    return (chosen - rejected) - (base_chosen - base_rejected)


def naive_dpo(*log_probs):
    return -jnp.log(jax.nn.sigmoid(0.1 * naive_margin(*log_probs)))


DPO = LossCase(
    lossfns.dpo,
    four_log_probs,
    oracles.dpo,
    naive_dpo,
    variants=({}, {"beta": 0.5, "label_smoothing": 0.1}),
    sweep={"beta": (0.1, 0.2, 0.5), "label_smoothing": (0.1, 0.2, 0.3)},
    hostile=hostile_answers,
    non_negative=True,
    limits={
        "log 2 where policy and reference agree": lambda x: (
            lossfns.dpo(*x[:2], *x[:2]),
            np.full(x[0].shape, math.log(2)),
        ),
        "label smoothing 1 exchanges the answers": lambda x: (
            lossfns.dpo(*x, label_smoothing=1.0),
            lossfns.dpo(x[1], x[0], x[3], x[2]),
        ),
        "the loss of a reward model on beta log-ratios": lambda x: (
            lossfns.dpo(*x, beta=0.5),
            lossfns.bradley_terry(0.5 * (x[0] - x[2]), 0.5 * (x[1] - x[3])),
        ),
    },
    bad_calls=(
        *wrong_four(),
        BadCall((zeros(3),) * 4, ("label_smoothing", "1.5"), {"label_smoothing": 1.5}),
    ),
)


def mean_over_flips(inputs):
    flipped = inputs[1], inputs[0], inputs[3], inputs[2]
    loss = jax.tree_util.Partial(lossfns.robust_dpo, beta=0.5, flip_rate=0.2)
    return 0.8 * loss(*inputs) + 0.2 * loss(*flipped), lossfns.dpo(*inputs, beta=0.5)


ROBUST_DPO = LossCase(
    lossfns.robust_dpo,
    four_log_probs,
    oracles.robust_dpo,
    lambda *x: naive_dpo(*x) - 0.125 * 0.1 * naive_margin(*x),
    variants=({}, {"beta": 0.5, "flip_rate": 0.3}),
    sweep={"beta": (0.1, 0.2, 0.5), "flip_rate": (0.1, 0.2, 0.3)},
    hostile=hostile_answers,
    limits={
        "flip rate 0 is DPO": lambda x: (lossfns.robust_dpo(*x, flip_rate=0), lossfns.dpo(*x)),
        "the mean over flips is DPO": mean_over_flips,
    },
    bad_calls=wrong_four("flip_rate", 0.5),
)
IPO = LossCase(
    lossfns.ipo,
    four_log_probs,
    oracles.ipo,
    lambda *x: (naive_margin(*x) - 5) ** 2,
    variants=({}, {"tau": 0.5}),
    sweep={"tau": (0.1, 0.2, 0.5)},
    hostile=lambda rng: {name: (x, {}) for name, (x, _) in hostile_answers(rng).items()},
    non_negative=True,
    limits={"0 at the target": lambda x: (lossfns.ipo(x[0] + 5, x[1], x[0], x[1]), np.zeros(x[0].shape))},
    bad_calls=wrong_four("tau"),
    # The target is exact only if adding 5 is.
    ulps=64,
)


def naive_exo(*log_probs):
    q = jax.nn.sigmoid(0.1 * naive_margin(*log_probs))
    return q * jnp.log(q / (1 - math.exp(-10))) + (1 - q) * jnp.log((1 - q) / math.exp(-10))


EXO = LossCase(
    lossfns.exo,
    four_log_probs,
    oracles.exo,
    naive_exo,
    variants=({}, {"beta": 0.5, "label_smoothing": 0.2}),
    sweep={"beta": (0.1, 0.2, 0.5), "label_smoothing": (0.1, 0.2, 0.3)},
    hostile=hostile_answers,
    non_negative=True,
    limits={
        "0 where the odds are the target's": lambda x: (
            lossfns.exo(x[0] + np.float32(math.log(3)), x[1], x[0], x[1], beta=1.0, label_smoothing=0.25),
            np.zeros(x[0].shape),
        )
    },
    bad_calls=wrong_four("label_smoothing"),
)


CASES = {
    "dpo": DPO,
    "exo": EXO,
    "ipo": IPO,
    "robust_dpo": ROBUST_DPO,
}
