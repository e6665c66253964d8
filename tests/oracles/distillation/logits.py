"""Oracles of `lossfns.distillation.logits`."""

import math

import numpy as np

from tests.oracles._shared import log_sum_exp
from tests.oracles.distillation._shared import divergence, log_softmax


def each_row(function, student, teacher, *more):
    values = np.zeros(student.shape[:-1])
    for index in np.ndindex(values.shape):
        values[index] = function(student[index].tolist(), teacher[index].tolist(), *(x[index] for x in more))
    return values


def knowledge_distillation(student, teacher, *, temperature=1.0):
    """Hinton 2015: T^2 KL(teacher || student), both at temperature T."""

    def one(s, t):
        s, t = [x / temperature for x in s], [x / temperature for x in t]
        return temperature**2 * divergence(log_softmax(t), log_softmax(s))

    return each_row(one, student, teacher)


def dkd(student, teacher, labels, *, temperature=4.0, target_weight=1.0, others_weight=8.0):
    """Zhao 2022, eq. 7: TCKD on (p_y, 1 - p_y), NCKD on the other classes renormalised."""

    def one(s, t, label):
        s, t = [x / temperature for x in s], [x / temperature for x in t]
        others_s = [x for k, x in enumerate(s) if k != label]
        others_t = [x for k, x in enumerate(t) if k != label]
        target = divergence(
            log_softmax([t[label], log_sum_exp(others_t)]), log_softmax([s[label], log_sum_exp(others_s)])
        )
        rest = 0.0 if log_sum_exp(others_t) == -math.inf else divergence(log_softmax(others_t), log_softmax(others_s))
        return temperature**2 * (target_weight * target + others_weight * rest)

    return each_row(one, student, teacher, labels)


def reverse_kl(student, teacher):
    return each_row(lambda s, t: divergence(log_softmax(s), log_softmax(t)), student, teacher)


def generalized_jsd(student, teacher, *, beta=0.5, normalize=False):
    """Agarwal 2023, eq. 1; divided by beta (1 - beta) it goes over into the two divergences."""

    def one(s, t):
        s, t = log_softmax(s), log_softmax(t)
        if beta in (0, 1):
            return (divergence(t, s) if beta == 0 else divergence(s, t)) if normalize else 0.0
        m = [log_sum_exp([math.log(beta) + b, math.log(1 - beta) + a]) for a, b in zip(s, t, strict=True)]
        value = beta * divergence(t, m) + (1 - beta) * divergence(s, m)
        return value / (beta * (1 - beta)) if normalize else value

    return each_row(one, student, teacher)


def total_variation(student, teacher):
    def one(s, t):
        pairs = zip(log_softmax(s), log_softmax(t), strict=True)
        return math.fsum(abs(math.exp(a) - math.exp(b)) for a, b in pairs) / 2

    return each_row(one, student, teacher)
