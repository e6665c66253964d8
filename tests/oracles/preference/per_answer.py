"""Oracles of `lossfns.preference.per_answer`."""

import math

import numpy as np

from tests.oracles._shared import softplus
from tests.oracles.preference._shared import each, sigmoid


def nca(*log_probs, beta=0.1):
    """Chen 2024, for pairs."""

    def value(chosen, rejected, base_chosen, base_rejected):
        win, lose = beta * (chosen - base_chosen), beta * (rejected - base_rejected)
        return softplus(-win) + softplus(win) / 2 + softplus(lose) / 2

    return each(value, *log_probs)


def sppo(chosen, rejected, base_chosen, base_rejected, chosen_wins=None, rejected_wins=None, *, beta=0.001):
    """Wu 2024, equation 4.7, over both answers."""
    chosen_wins = np.ones_like(chosen) if chosen_wins is None else chosen_wins
    rejected_wins = np.zeros_like(chosen) if rejected_wins is None else rejected_wins

    def value(win, lose, base_win, base_lose, p_w, p_l):
        if not (0 <= p_w <= 1 and 0 <= p_l <= 1):
            return math.nan
        squares = (win - base_win - (p_w - 0.5) / beta) ** 2, (lose - base_lose - (p_l - 0.5) / beta) ** 2
        return sum(squares) / 2

    return each(value, chosen, rejected, base_chosen, base_rejected, chosen_wins, rejected_wins)


def apo(*log_probs, beta=0.1, form="zero"):
    """D'Oosterlinck 2024, equations 7 and 8."""

    def value(chosen, rejected, base_chosen, base_rejected):
        win, lose = beta * (chosen - base_chosen), beta * (rejected - base_rejected)
        if form == "zero":
            return 1 - sigmoid(win) + sigmoid(lose)
        return sigmoid(win) + 1 - sigmoid(win - lose)

    return each(value, *log_probs)
