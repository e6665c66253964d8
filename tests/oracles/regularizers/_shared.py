"""What the oracles of several losses share."""

import math

from tests.oracles._shared import log_sum_exp


def probabilities(row):
    """The softmax; None without any class. Logits of +inf share it all."""
    row = [float(x) for x in row]
    if math.inf in row:
        return [(x == math.inf) / row.count(math.inf) for x in row]
    z = log_sum_exp(row)
    return None if z == -math.inf else [math.exp(x - z) for x in row]
