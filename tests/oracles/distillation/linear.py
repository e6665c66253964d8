"""Oracles of `lossfns.distillation.linear`."""

import math

import numpy as np

from tests.oracles._shared import log_sum_exp, logits_of


def linear_distillation(
    student, teacher, *, student_head, teacher_head, temperature=1.0, teacher_bias=None, block_size=None
):
    """T^2 sum_k p_k (log p_k - log q_k) of the softened distributions."""
    values = np.zeros(student.shape[:-1])
    for index in np.ndindex(values.shape):
        s = [x / temperature for x in logits_of(student[index], student_head)]
        t = [x / temperature for x in logits_of(teacher[index], teacher_head, teacher_bias)]
        of_s, of_t = log_sum_exp(s), log_sum_exp(t)
        terms = [math.exp(y - of_t) * ((y - of_t) - (x - of_s)) for x, y in zip(s, t, strict=True) if y > -math.inf]
        values[index] = temperature**2 * math.fsum(terms)
    return values
