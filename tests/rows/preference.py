"""Rows of the losses of preference between two answers, against a reference."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import preference as oracles
from tests.rows import zeros

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


def naive_margin(chosen, rejected, base_chosen, base_rejected):
    return (chosen - rejected) - (base_chosen - base_rejected)


def naive_dpo(*log_probs):
    return -jnp.log(jax.nn.sigmoid(0.1 * naive_margin(*log_probs)))


def shifted(loss, by=3.0):
    """The value where both answers have become likelier alike, under policy and reference."""
    return lambda inputs: (loss(*(x + np.float32(by) for x in inputs)), loss(*inputs))


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


def naive_nca(chosen, rejected, base_chosen, base_rejected):
    win, lose = 0.1 * (chosen - base_chosen), 0.1 * (rejected - base_rejected)
    log_sigmoid = lambda x: jnp.log(jax.nn.sigmoid(x))  # noqa: E731
    return -log_sigmoid(win) - log_sigmoid(-win) / 2 - log_sigmoid(-lose) / 2


NCA = LossCase(
    lossfns.nca,
    four_log_probs,
    oracles.nca,
    naive_nca,
    variants=({}, {"beta": 0.5}),
    sweep={"beta": (0.1, 0.2, 0.5)},
    hostile=hostile_answers,
    non_negative=True,
    limits={"each answer has its own reference": shifted(lossfns.nca)},
    bad_calls=wrong_four(),
)
SPPO = LossCase(
    lossfns.sppo,
    four_log_probs,
    oracles.sppo,
    lambda win, lose, *base: ((win - base[0] - 500) ** 2 + (lose - base[1] + 500) ** 2) / 2,
    variants=({}, {"beta": 0.5}),
    sweep={"beta": (0.001, 0.01, 0.1)},
    hostile=hostile_answers,
    non_negative=True,
    bad_calls=(
        *wrong_four(),
        BadCall((zeros(3),) * 4, ("chosen_win_rate", "(3,)", "(2,)"), {"chosen_win_rate": zeros(2)}),
        BadCall((zeros(3),) * 4, ("rejected_win_rate", "floating"), {"rejected_win_rate": np.zeros(3, np.int32)}),
    ),
)


def sppo_of_win_rates(chosen, rejected, base_chosen, base_rejected, chosen_wins, rejected_wins, *, where=None):
    rates = {"chosen_win_rate": chosen_wins, "rejected_win_rate": rejected_wins}
    return lossfns.sppo(chosen, rejected, base_chosen, base_rejected, beta=0.5, where=where, **rates)


SPPO_OF_WIN_RATES = LossCase(
    sppo_of_win_rates,
    lambda rng, rows: (*four_log_probs(rng, rows), rng.uniform(0.5, 1, rows), rng.uniform(0, 0.5, rows)),
    lambda *x: oracles.sppo(*x, beta=0.5),
    differentiable=(0, 1, 2, 3),
    hostile=lambda rng: {
        "win rates that are no probabilities": (
            (*four_log_probs(rng, 3), np.array([1.5, 1, -0.1]), np.array([0, INF, 0.5])),
            {},
        )
    },
    outside={4: (-0.5, 1.5), 5: (-0.5, 1.5)},
)


def naive_apo(chosen, rejected, base_chosen, base_rejected):
    return 1 - jax.nn.sigmoid(0.1 * (chosen - base_chosen)) + jax.nn.sigmoid(0.1 * (rejected - base_rejected))


APO = LossCase(
    lossfns.apo,
    four_log_probs,
    oracles.apo,
    naive_apo,
    variants=({}, {"beta": 0.5, "form": "down"}),
    sweep={"beta": (0.1, 0.2, 0.5)},
    hostile=lambda rng: hostile_answers(rng) | {"down": (four_log_probs(rng, 3), {"form": "down"})},
    non_negative=True,
    limits={"each answer has its own reference": shifted(lossfns.apo)},
    bad_calls=(*wrong_four(), BadCall((zeros(3),) * 4, ("zero", "down", "up"), {"form": "up"})),
)


ROWS = {
    "apo": APO,
    "dpo": DPO,
    "exo": EXO,
    "ipo": IPO,
    "nca": NCA,
    "robust_dpo": ROBUST_DPO,
    "sppo": SPPO,
    "sppo of win rates": SPPO_OF_WIN_RATES,
}
