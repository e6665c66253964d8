"""What the oracles of several losses share."""

import numpy as np


def entrywise(formula):
    """An oracle of arrays of one shape from a formula of numbers."""

    def oracle(*arrays, **kwargs):
        return np.vectorize(lambda *entries: formula(*map(float, entries), **kwargs), otypes=[float])(*arrays)

    return oracle
