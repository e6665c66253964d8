"""Oracles of `lossfns.detection.matching`."""

import itertools
import math

import numpy as np

from tests.oracles._shared import log_sum_exp, negative_log_probability
from tests.oracles.detection._shared import corners, one_minus_giou, pairwise


def set_prediction(logits, boxes, labels, targets, valid, *, no_object_weight=0.1, giou_cost=2.0, layout="centre"):
    """Carion 2020, equations 1 and 2: the best of all assignments, then the sum of an example's losses."""
    totals = []
    for x, predicted, y, true, there in zip(logits, boxes, labels, targets, valid, strict=True):
        objects = [i for i in range(len(y)) if there[i]]
        classes = x.shape[-1] - 1
        sound = all(corners(box, layout) for box in [*predicted, *(true[i] for i in objects)])
        if not sound or not all(0 <= y[i] < classes for i in objects):
            totals.append(math.nan)
            continue

        def parts(i, q, x=x, predicted=predicted, y=y, true=true):
            probability = math.exp(x[q][y[i]] - log_sum_exp(x[q]))
            distance = sum(abs(float(a - b)) for a, b in zip(predicted[q], true[i], strict=True))
            overlap = pairwise(one_minus_giou)(predicted[q][None], true[i][None], layout=layout)[0]
            return probability, distance, overlap

        def cost(queries, objects=objects, parts=parts):
            terms = [parts(i, q) for i, q in zip(objects, queries, strict=True)]
            return sum(-p + 5 * d + giou_cost * g for p, d, g in terms)

        best = min(itertools.permutations(range(len(x)), len(objects)), key=cost)
        wanted = dict(zip(best, (int(y[i]) for i in objects), strict=True))
        total = 0.0
        for q, row in enumerate(x):
            weight = 1 if q in wanted else no_object_weight
            total += weight * negative_log_probability([float(v) for v in row], wanted.get(q, classes))
        for i, q in zip(objects, best, strict=True):
            _, distance, overlap = parts(i, q)
            total += 5 * distance + 2 * overlap
        totals.append(total)
    return np.array(totals)
