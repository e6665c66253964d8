"""Oracles of `lossfns.detection.boxes`."""

import math

from tests.oracles.detection._shared import measures, one_minus_giou, pairwise


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
giou = pairwise(one_minus_giou)
diou = pairwise(diou_cost)
ciou = pairwise(ciou_cost)
