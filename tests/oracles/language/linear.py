"""Oracles of `lossfns.language.linear`."""

import math

import numpy as np

from tests.oracles._shared import cross_entropy_of_row, logits_of, negative_log_probability


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
