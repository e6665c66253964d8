"""Cases of `lossfns.preference.per_answer`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.preference._shared import INF, four_log_probs, hostile_answers, wrong_four
from tests.oracles.preference import per_answer as oracles


def shifted(loss, by=3.0):
    """The value where both answers have become equally likelier under policy and reference."""
    return lambda inputs: (loss(*(x + np.float32(by) for x in inputs)), loss(*inputs))


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
        "win rates that are not probabilities": (
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


CASES = {
    "apo": APO,
    "nca": NCA,
    "sppo": SPPO,
    "sppo of win rates": SPPO_OF_WIN_RATES,
}
