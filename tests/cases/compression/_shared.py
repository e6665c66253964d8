"""What the cases of several losses share."""

import numpy as np

from lossfns.testing import BadCall
from tests.cases._shared import zeros


def parameters(rng, rows):
    return ({"bias": rng.normal(size=3), "kernel": rng.normal(size=(2, 3))},)


WRONG_PARAMETERS = (
    BadCall(({"kernel": zeros(2, dtype=np.int32)},), ("kernel", "floating", "int32")),
    BadCall(({"kernel": zeros(2)},), ("weight", "-1"), {"weight": -1}),
)
