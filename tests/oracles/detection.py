"""Oracles of the detection losses: boxes one by one, and every assignment of queries to objects."""

import itertools
import math

import numpy as np

from tests.oracles.common import log_sum_exp, negative_log_probability


def corners(box, layout):
    """None for a box that is turned inside out."""
    x1, y1, x2, y2 = map(float, box)
    if layout == "centre":
        x1, y1, x2, y2 = x1 - x2 / 2, y1 - y2 / 2, x1 + x2 / 2, y1 + y2 / 2
    return (x1, y1, x2, y2) if x2 >= x1 and y2 >= y1 else None


def length(a1, a2, b1, b2):
    return max(min(a2, b2) - max(a1, b1), 0.0)


def measures(a, b):
    """IoU, area of the union and of the box around both, its sides."""
    intersection = length(a[0], a[2], b[0], b[2]) * length(a[1], a[3], b[1], b[3])
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    width, height = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    return (intersection / union if union else 0.0), union, width * height, width, height


def pairwise(cost):
    def oracle(predictions, targets, *, layout="corners"):
        values = []
        for p, t in zip(predictions.reshape(-1, 4), targets.reshape(-1, 4), strict=True):
            a, b = corners(p, layout), corners(t, layout)
            values.append(cost(a, b) if a and b else math.nan)
        return np.array(values).reshape(predictions.shape[:-1])

    return oracle


def giou_cost(a, b):
    overlap, union, hull, _, _ = measures(a, b)
    return 1 - overlap + ((hull - union) / hull if hull else 0.0)


def diou_cost(a, b):
    overlap, _, _, width, height = measures(a, b)
    distance = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    diagonal = width**2 + height**2
    return 1 - overlap + (distance / diagonal if diagonal else 0.0)


def shape_penalty(a, b):
    angles = [(box[2] - box[0], box[3] - box[1]) for box in (a, b)]
    if (0.0, 0.0) in angles:
        return 0.0
    return 4 / math.pi**2 * (math.atan2(*angles[0]) - math.atan2(*angles[1])) ** 2


def ciou_cost(a, b):
    v = shape_penalty(a, b)
    return diou_cost(a, b) + (v * v / (1 - measures(a, b)[0] + v) if v else 0.0)


iou = pairwise(lambda a, b: 1 - measures(a, b)[0])
giou = pairwise(giou_cost)
diou = pairwise(diou_cost)
ciou = pairwise(ciou_cost)


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
            overlap = pairwise(globals()["giou_cost"])(predicted[q][None], true[i][None], layout=layout)[0]
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
