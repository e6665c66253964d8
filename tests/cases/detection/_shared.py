"""What the cases of several losses share."""

import numpy as np

INTEGERS = np.int32


def some_boxes(rng, *shape):
    corner = rng.uniform(0, 1, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(0.3, 1.2, (*shape, 2))], -1)


def as_centres(boxes):
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], -1)
