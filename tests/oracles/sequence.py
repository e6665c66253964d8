"""Oracles of the losses on sequences: every alignment and every path, one after the other."""

import itertools
import math

import numpy as np

from tests.oracles.common import log_sum_exp, negative_log_probability


def present(count, where):
    """Indices that are there: a mask, a length, or all."""
    if where is None:
        return list(range(count))
    where = np.asarray(where)
    if where.dtype == bool:
        return np.flatnonzero(where).tolist()
    return list(range(int(where))) if 0 <= where <= count else None


def is_hole(indices):
    return indices != list(range(len(indices)))


def rows_of(where, rows):
    return [None] * rows if where is None else where


def collapsed(path, blank):
    """Merge repeats, then drop blanks."""
    return [k for k, _ in itertools.groupby(path) if k != blank]


def ctc(logits, labels, logits_where=None, labels_where=None, *, blank_id=0, zero_infinity=False):
    """Graves 2006: -log of the summed probability of all V^T paths that collapse to the labels."""
    values = np.zeros(len(logits))
    frames_of, labels_of = rows_of(logits_where, len(logits)), rows_of(labels_where, len(logits))
    for b in range(len(logits)):
        frames, places = present(logits.shape[1], frames_of[b]), present(labels.shape[1], labels_of[b])
        classes = logits.shape[2]
        if frames is None or places is None or is_hole(places):
            values[b] = np.nan
            continue
        text = [int(labels[b, u]) for u in places]
        if any(k < 0 or k >= classes or k == blank_id for k in text):
            values[b] = np.nan
            continue
        scores = []
        for path in itertools.product(range(classes), repeat=len(frames)):
            if collapsed(path, blank_id) == text:
                parts = [negative_log_probability(logits[b, t].tolist(), k) for t, k in zip(frames, path, strict=True)]
                scores.append(-math.fsum(parts) if math.inf not in parts else -math.inf)
        values[b] = -log_sum_exp(scores) + 0.0
        if zero_infinity and values[b] == math.inf:
            values[b] = 0.0
    return values


def rnn_transducer(logits, labels, frames_where=None, labels_where=None, *, blank_id=0):
    """Graves 2012: every order of len(text) labels among the blanks, the last of which comes last."""
    values = np.zeros(len(logits))
    frames_of, labels_of = rows_of(frames_where, len(logits)), rows_of(labels_where, len(logits))
    for b in range(len(logits)):
        frames, places = present(logits.shape[1], frames_of[b]), present(labels.shape[1], labels_of[b])
        if frames is None or places is None or is_hole(places):
            values[b] = np.nan
            continue
        text = [int(labels[b, u]) for u in places]
        if any(k < 0 or k >= logits.shape[3] or k == blank_id for k in text):
            values[b] = np.nan
            continue
        moves = len(frames) + len(text)
        scores = []
        for label_moves in itertools.combinations(range(max(moves - 1, 0)), len(text)):
            t, u, parts = 0, 0, []
            for move in range(moves):
                is_label = move in label_moves
                row = logits[b, frames[t], u].tolist()
                parts.append(negative_log_probability(row, text[u] if is_label else blank_id))
                t, u = (t, u + 1) if is_label else (t + 1, u)
            scores.append(-math.fsum(parts) if math.inf not in parts else -math.inf)
        values[b] = -log_sum_exp(scores) + 0.0
        if not frames:
            values[b] = 0.0 if not text else math.inf
    return values


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
    """Lafferty 2001: log of the sum over all K^T paths, less the score of the one that is right."""
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


def alignments(n, m):
    """Every path of cells from (0, 0) to (n - 1, m - 1) by steps down, right and diagonal."""
    if n == 1 and m == 1:
        yield ((0, 0),)
        return
    for i, j in ((n - 1, m), (n, m - 1), (n - 1, m - 1)):
        if i and j:
            for path in alignments(i, j):
                yield (*path, (n - 1, m - 1))


def soft_minimum(x, y, gamma):
    if not len(x) or not len(y):
        return 0.0 if len(x) == len(y) else math.inf
    costs = [math.fsum(math.fsum((x[i] - y[j]) ** 2) for i, j in path) for path in alignments(len(x), len(y))]
    return -gamma * log_sum_exp([-cost / gamma for cost in costs])


def soft_dtw(predictions, targets, predictions_where=None, targets_where=None, *, gamma=1.0, divergence=False):
    """Cuturi and Blondel 2017: the soft minimum over all alignments."""
    values = np.zeros(len(predictions))
    x_of, y_of = rows_of(predictions_where, len(predictions)), rows_of(targets_where, len(predictions))
    for b in range(len(predictions)):
        in_x, in_y = present(predictions.shape[1], x_of[b]), present(targets.shape[1], y_of[b])
        if in_x is None or in_y is None:
            values[b] = np.nan
            continue
        x, y = predictions[b][in_x], targets[b][in_y]
        values[b] = soft_minimum(x, y, gamma)
        if divergence:
            values[b] -= (soft_minimum(x, x, gamma) + soft_minimum(y, y, gamma)) / 2
    return values
