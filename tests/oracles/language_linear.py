"""Oracles of the losses straight from hidden states: the logits, entry by entry, then the definition."""

import math

import numpy as np

from tests.oracles.classification import cross_entropy_of_row
from tests.oracles.common import log_sum_exp, negative_log_probability


def logits_of(state, head, bias=None):
    """One row of logits."""
    products = [math.fsum(float(w) * float(x) for w, x in zip(row, state, strict=True)) for row in head]
    return products if bias is None else [x + float(b) for x, b in zip(products, bias, strict=True)]


def linear_cross_entropy(hidden, labels, *, head, bias=None, block_size=None, **options):
    values = np.zeros(labels.shape)
    for index in np.ndindex(labels.shape):
        values[index] = cross_entropy_of_row(logits_of(hidden[index], head, bias), int(labels[index]), **options)
    return values


def linear_log_probs(hidden, labels, **options):
    return -linear_cross_entropy(hidden, labels, **options)


def linear_sequence_log_probs(hidden, tokens, answer, *, head, average=False, block_size=None):
    """Token i is predicted from the hidden state at i - 1."""
    values = np.zeros(len(tokens))
    for row, (states, sequence) in enumerate(zip(hidden, tokens, strict=True)):
        scored = [i for i in range(1, len(sequence)) if answer[row, i]]
        terms = [-negative_log_probability(logits_of(states[i - 1], head), int(sequence[i])) for i in scored]
        values[row] = math.fsum(terms) / (max(len(scored), 1) if average else 1)
    return values


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
