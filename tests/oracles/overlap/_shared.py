"""What the oracles of several losses share."""

import itertools
import math

import numpy as np

from tests.oracles._shared import log_sum_exp


def regions(logits, labels):
    """For each example a list of (probabilities, memberships), one for each place; void places are left out."""
    examples = []
    for x, y in zip(logits, labels, strict=True):
        places = []
        many = y.shape == x.shape
        for index in np.ndindex(x.shape[:-1]):
            row = [float(v) for v in x[index]]
            if many:
                p = [1 / (1 + math.exp(-v)) if v > -700 else 0.0 for v in row]
                t = [float(v) if 0 <= v <= 1 else math.nan for v in y[index]]
            else:
                p = [math.exp(v - log_sum_exp(row)) for v in row]
                known = 0 <= int(y[index]) < len(row)
                t = [float(k == int(y[index])) if known else math.nan for k in range(len(row))]
            places.append((p, t))
        examples.append(places)
    return examples


def by_region(score):
    """An oracle from the cost of a list of places, for each example or for all of the batch."""

    def oracle(logits, labels, *, over=None, **kwargs):
        examples = regions(logits, labels)
        classes = logits.shape[-1]
        if (over or DEFAULT.get(score, "example")) == "batch":
            together = [place for places in examples for place in places]
            return np.full(len(examples), score(together, classes, **kwargs)) if examples else np.zeros(0)
        return np.array([score(places, classes, **kwargs) for places in examples])

    return oracle


def mean_over_classes(costs, sizes, absent):
    chosen = [cost for cost, size in zip(costs, sizes, strict=True) if size != 0 or absent == "keep"]
    return sum(chosen) / len(chosen) if chosen else 0.0


def counts(places, c):
    true_positives = sum(p[c] * t[c] for p, t in places)
    false_positives = sum(p[c] * (1 - t[c]) for p, t in places)
    false_negatives = sum((1 - p[c]) * t[c] for p, t in places)
    return true_positives, false_positives, false_negatives


def sizes_of(places, classes):
    return [sum(t[c] for _, t in places) for c in range(classes)]


def score(numerator, denominator):
    """The score of nothing predicted and nothing there is 1."""
    return numerator / denominator if denominator else 1.0


def f1(places, classes, *, average="macro", smooth=0.0, absent="skip"):
    tables = [counts(places, c) for c in range(classes)]
    sizes = sizes_of(places, classes)
    if average == "micro":
        tables, sizes = [tuple(map(sum, zip(*tables, strict=True)))], [sum(sizes)]
    costs = [1 - score(2 * tp + smooth, 2 * tp + fp + fn + smooth) for tp, fp, fn in tables]
    return mean_over_classes(costs, sizes, absent)


def jaccard_loss(wrong, true):
    """1 - |intersection| / |union| of a prediction that is wrong in exactly these places."""
    predicted = true ^ wrong
    return 1 - len(predicted & true) / len(predicted | true) if predicted | true else 0.0


def berman(places, classes, *, absent="skip"):
    """The Lovasz extension by its definition: sorted errors times the steps of the set function."""
    costs = []
    if any(math.isnan(x) for _, t in places for x in t):
        return math.nan
    for c in range(classes):
        errors = [abs(t[c] - p[c]) for p, t in places]
        true = {i for i, (_, t) in enumerate(places) if t[c]}
        order = sorted(range(len(places)), key=lambda i, errors=errors: -errors[i])
        sets = [set(order[:i]) for i in range(len(order) + 1)]
        steps = [jaccard_loss(more, true) - jaccard_loss(less, true) for less, more in itertools.pairwise(sets)]
        costs.append(math.fsum(errors[i] * step for i, step in zip(order, steps, strict=True)))
    return mean_over_classes(costs, sizes_of(places, classes), absent)


DEFAULT = {f1: "batch", berman: "batch"}
