"""Oracles of the losses of preference."""

import math

import numpy as np

from tests.oracles.common import negative_log_probability, softplus


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def each(function, *arrays, **kwargs):
    """A function of numbers, for each entry of arrays of one shape."""
    values = [function(*map(float, row), **kwargs) for row in zip(*(np.ravel(x) for x in arrays), strict=True)]
    return np.array(values).reshape(np.shape(arrays[0]))


def sequence_log_probs(logits, tokens, where=None, average=False):
    """Sum of log p(t_i | t_<i) over the answer's tokens, by the logits of i - 1."""
    values = np.zeros(tokens.shape[0])
    for row in range(tokens.shape[0]):
        scored = [i for i in range(1, tokens.shape[1]) if where is None or where[row, i]]
        terms = [-negative_log_probability(logits[row, i - 1].tolist(), int(tokens[row, i])) for i in scored]
        total = math.fsum(terms) if all(map(math.isfinite, terms)) else -math.inf
        values[row] = total / max(len(terms), 1) if average else total
    return values


def margin(chosen, rejected, base_chosen, base_rejected):
    return chosen - rejected - base_chosen + base_rejected


def smoothed(z, label_smoothing):
    return (1 - label_smoothing) * softplus(-z) + (label_smoothing * softplus(z) if label_smoothing else 0)


def dpo(*log_probs, beta=0.1, label_smoothing=0.0):
    """Rafailov 2023, equation 7; Mitchell 2023, equation 3."""
    return each(lambda *row: smoothed(beta * margin(*row), label_smoothing), *log_probs)


def robust_dpo(*log_probs, beta=0.1, flip_rate=0.1):
    """Ray Chowdhury 2024: both losses, weighted so that their mean over flips is the unflipped one."""

    def value(*row):
        z = beta * margin(*row)
        if math.isinf(z):
            return -z if flip_rate or z < 0 else 0.0
        return ((1 - flip_rate) * softplus(-z) - flip_rate * softplus(z)) / (1 - 2 * flip_rate)

    return each(value, *log_probs)


def ipo(*log_probs, tau=0.1):
    """Azar 2023, equation 17."""
    return each(lambda *row: (margin(*row) - 1 / (2 * tau)) ** 2, *log_probs)


def exo(*log_probs, beta=0.1, label_smoothing=4.5399929762484854e-05):
    """Ji 2024, equation 16: KL of (q, 1 - q) from (1 - e, e), with 0 log 0 = 0."""

    def value(*row):
        z = beta * margin(*row)
        pairs = ((sigmoid(z), -softplus(-z), 1 - label_smoothing), (sigmoid(-z), -softplus(z), label_smoothing))
        return math.fsum(q * (log_q - math.log(p)) for q, log_q, p in pairs if q)

    return each(value, *log_probs)


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


def log1mexp(x):
    return math.log(-math.expm1(x)) if x < 0 else -math.inf


def orpo(chosen, rejected, *, weight=0.1, with_nll=True):
    """Hong 2024, equations 6 and 7; two answers alike have the odds ratio one."""

    def value(x, y):
        if x > 0 or y > 0:
            return math.nan
        odds = 0.0 if x == y else (x - log1mexp(x)) - (y - log1mexp(y))
        return weight * softplus(-odds) - (x if with_nll else 0)

    return each(value, chosen, rejected)


def simpo(chosen, rejected, *, beta=2.0, gamma=0.5, label_smoothing=0.0):
    """Meng 2024, equation 6."""
    return each(lambda x, y: smoothed(beta * (x - y) - gamma, label_smoothing), chosen, rejected)


def cpo(chosen, rejected, *, beta=0.1, label_smoothing=0.0, nll_weight=1.0):
    """Xu 2024, equations 3 to 5."""
    return each(lambda x, y: smoothed(beta * (x - y), label_smoothing) - nll_weight * x, chosen, rejected)


def slic_hinge(chosen, rejected, *, margin=1.0):
    """Zhao 2023, equation 1 without the regulariser."""
    return each(lambda x, y: max(0.0, margin - x + y), chosen, rejected)


def kto(
    policy,
    reference,
    desirable,
    off_policy,
    off_reference,
    *,
    beta=0.1,
    desirable_weight=1.0,
    undesirable_weight=1.0,
):
    """Ethayarajh 2024, equation 8, with the estimate of the divergence of section 4.1."""
    gaps = [p - q for p, q in zip(off_policy.tolist(), off_reference.tolist(), strict=True)]
    z = max(0.0, math.fsum(gaps) / len(gaps)) if gaps else 0.0

    def value(p, q, good):
        gain = beta * (p - q - z)
        return desirable_weight * (1 - sigmoid(gain)) if good else undesirable_weight * (1 - sigmoid(-gain))

    return each(value, policy, reference, desirable)


def bco(policy, reference, desirable, *, beta=0.1, shift=0.0):
    """Jung 2024: binary cross-entropy of the shifted reward."""

    def value(p, q, good):
        logit = beta * (p - q) - float(shift)
        return softplus(-logit) if good else softplus(logit)

    return each(value, policy, reference, desirable)


def reward_shift(rewards):
    """The mean of everything and the number, beginning with a mean of 2 over 3 rewards."""
    total = 3 * 2.0 + math.fsum(map(float, rewards.ravel()))
    return np.array([total / (3 + rewards.size), 3 + rewards.size])


def bradley_terry(chosen, rejected, margins=None, *, margin=0.0, centring=0.0):
    """Bradley and Terry 1952; Llama 2, equation 2; Eisenstein 2023, equation 4."""
    margins = np.full_like(chosen, margin) if margins is None else margins
    return each(lambda x, y, m: softplus(m - x + y) + (centring and centring * (x + y) ** 2), chosen, rejected, margins)
