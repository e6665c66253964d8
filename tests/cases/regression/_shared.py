"""What the cases of several losses share."""

import numpy as np

from lossfns.testing import BadCall
from tests.cases._shared import zeros


def predicted_rows(rng, rows):
    return rng.normal(size=(rows, 3)) * 2, rng.normal(size=(rows, 3))


def hostile_predictions(rng):
    predictions, targets = predicted_rows(rng, 4)
    return {
        "both + 1e4": ((predictions + 1e4, targets + 1e4), {}),
        "equal": ((targets, targets), {}),
        "infinite predictions": ((np.array([np.inf, -np.inf, 0.0]), zeros(3)), {}),
    }


WRONG_PREDICTIONS = (
    BadCall((zeros(3, 1), zeros(3)), ("(3, 1)", "(3,)")),
    BadCall((zeros(3, dtype=np.int32), zeros(3)), ("predictions", "floating", "int32")),
)

INF = np.inf
