"""What the oracles of several losses share."""

import numpy as np


def mean_of(cost, *arrays):
    """[N]: the mean over features of a cost of numbers."""
    examples = zip(*arrays, strict=True)
    return np.array([np.mean([cost(*x) for x in zip(*map(np.ravel, rows), strict=True)]) for rows in examples])
