"""What the cases of several losses share."""

import numpy as np

from lossfns.testing import BadCall
from tests.cases._shared import zeros


def images(rng, rows, count=2):
    return tuple(rng.normal(size=(rows, 2, 3)) for _ in range(count))


def wrong_examples(first, second, *others):
    """Calls that any loss of examples of one shape refuses."""
    return (
        BadCall((zeros(3, 2), zeros(3, 4), *others), (second, "(3, 2)", "(3, 4)")),
        BadCall((zeros(), zeros(), *others), (first, "[N, ...]", "()")),
        BadCall((zeros(3, 0), zeros(3, 0), *others), (first, "at least one feature", "(3, 0)")),
        BadCall((zeros(3, 2, dtype=np.int32), zeros(3, 2), *others), (first, "floating", "int32")),
        BadCall((zeros(3, 2), zeros(3, 2, dtype=np.int32), *others), (second, "floating", "int32")),
    )
