"""What the cases of several losses share."""

import jax.numpy as jnp
import numpy as np

from lossfns.testing import BadCall
from tests.cases._shared import zeros

FEATURES, PROTOTYPES = 4, 5


def wrong_pairs(first, second):
    """Calls that any loss of two equal arrays refuses."""
    return (
        BadCall((zeros(3, 4), zeros(3, 5)), (second, "(3, 4)", "(3, 5)")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), (first, "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, 4, dtype=np.int32)), (second, "floating", "int32")),
    )


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
