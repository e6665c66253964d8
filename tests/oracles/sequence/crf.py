"""Oracles of `lossfns.sequence.crf`."""

import itertools
import math

import numpy as np

from tests.oracles._shared import log_sum_exp, present, rows_of


def chain_paths(emissions, transitions, steps, start=None, end=None):
    """(path, score) of every sequence of states over the steps."""
    states = emissions.shape[-1]
    for path in itertools.product(range(states), repeat=len(steps)):
        parts = [emissions[t, k] for t, k in zip(steps, path, strict=True)]
        parts += [transitions[i, j] for i, j in itertools.pairwise(path)]
        if path:
            parts += [start[path[0]]] if start is not None else []
            parts += [end[path[-1]]] if end is not None else []
        yield path, -math.inf if -math.inf in parts else math.fsum(parts)


def of_row(transitions, b):
    return transitions if transitions.ndim == 2 else transitions[b]


def linear_chain_crf(emissions, transitions, tags, steps_where=None, *, start=None, end=None):
    """Lafferty 2001: log of the sum over all K^T paths, minus the score of the correct path."""
    values = np.zeros(len(emissions))
    for b, where in enumerate(rows_of(steps_where, len(emissions))):
        steps = present(emissions.shape[1], where)
        if steps is None or any(not 0 <= tags[b, t] < emissions.shape[2] for t in steps):
            values[b] = np.nan
            continue
        scores = dict(chain_paths(emissions[b], of_row(transitions, b), steps, start, end))
        gold = scores[tuple(int(tags[b, t]) for t in steps)]
        values[b] = math.inf if gold == -math.inf else log_sum_exp(list(scores.values())) - gold
    return values


def viterbi_score(emissions, transitions, steps_where=None):
    values = np.zeros(len(emissions))
    for b, where in enumerate(rows_of(steps_where, len(emissions))):
        steps = present(emissions.shape[1], where)
        values[b] = max(score for _, score in chain_paths(emissions[b], of_row(transitions, b), steps))
    return values


def crf_marginals(emissions, transitions, steps_where=None):
    """For each state at each step, the share of the paths through it."""
    values = np.zeros(emissions.shape)
    for b, where in enumerate(rows_of(steps_where, len(emissions))):
        steps = present(emissions.shape[1], where)
        paths = list(chain_paths(emissions[b], of_row(transitions, b), steps))
        total = log_sum_exp([score for _, score in paths])
        for place, t in enumerate(steps):
            for k in range(emissions.shape[2]):
                through = log_sum_exp([score for path, score in paths if path[place] == k])
                values[b, t, k] = math.exp(through - total) if through > -math.inf else 0.0
    return values
