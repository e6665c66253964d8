"""What the oracles of several losses share."""

import math


def exponential(x):
    """e^x, infinite where float32 has no number for it."""
    return math.exp(x) if x < 88.72 else math.inf


def surrogate(log_ratio, advantage, clip_low, clip_high, dual_clip=None):
    """Schulman 2017, equation 7; Ye 2019, equation 5."""
    ratio = exponential(log_ratio)
    if advantage == 0:
        return 0.0
    value = min(ratio * advantage, min(max(ratio, 1 - clip_low), 1 + clip_high) * advantage)
    return -max(value, dual_clip * advantage) if dual_clip and advantage < 0 else -value


def k3(difference):
    """e^-d - 1 + d; the alternating series where the terms cancel."""
    if abs(difference) < 1e-2:
        return math.fsum((-difference) ** n / math.factorial(n) for n in range(2, 12))
    return exponential(-difference) - 1 + difference
