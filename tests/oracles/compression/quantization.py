"""Oracles of `lossfns.compression.quantization`."""

import math

import numpy as np

from tests.oracles._shared import entries


def fake_quantize(
    x, *, bits, scale=None, zero_point=None, axis=None, signed=True, symmetric=True, scale_gradient="lsq"
):
    """Entry by entry: Esser 2019, equations 1 and 2, the step a channel's largest magnitude over Q; Jacob 2018,
    equations 12 and 13, with the zero point of section 3; Rastegari 2016, equation 6."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    result = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        channel = x if axis is None else np.take(x, index[axis], axis)
        step, zero, v = scale, 0 if zero_point is None else zero_point, float(x[index])
        step, zero = (a if a is None or np.ndim(a) == 0 else a[index[axis]] for a in (step, zero))
        if bits == 1 and signed and symmetric and zero_point is None:
            step = np.abs(channel).mean() if step is None else float(step)
            result[index] = math.copysign(step, v + 0.0) if v else step
            continue
        if step is None and symmetric:
            step = np.abs(channel).max() / high or 1.0
        elif step is None:
            bottom, top = min(channel.min(), 0.0), max(channel.max(), 0.0)
            step = (top - bottom) / (2**bits - 1) or 1.0
            zero = min(max(round(low - bottom / step), low), high)
        step, zero = float(step), int(zero)
        if step <= 0 or math.isnan(v) or not low <= zero <= high:
            result[index] = math.nan
        else:
            level = v / step if math.isinf(v) else round(v / step)
            result[index] = step * (min(max(level + zero, low), high) - zero)
    return result


def kurtosis_penalty(params, *, weight=1.0, target=1.8):
    """Shkolnik 2020, equations 7 and 8."""
    parts = []
    for name in sorted(params):
        x = [float(v) for v in np.ravel(params[name])]
        if x and max(x) > min(x):
            mean = math.fsum(x) / len(x)
            variance = math.fsum((v - mean) ** 2 for v in x) / len(x)
            parts.append((math.fsum((v - mean) ** 4 for v in x) / len(x) / variance**2 - target) ** 2)
    return weight * math.fsum(parts) / len(parts) if parts else 0.0


def entropy_of_weights(params, levels, *, weight=1.0, sharpness=1.0):
    """Agustsson 2017, section 3.3."""
    mass, weights = [0.0] * len(levels), entries(params)
    for w in weights:
        distances = [(w - float(c)) ** 2 for c in levels]
        shares = [math.exp(-sharpness * (d - min(distances))) for d in distances]
        mass = [m + s / math.fsum(shares) for m, s in zip(mass, shares, strict=True)]
    p = [m / len(weights) for m in mass] if weights else []
    return -weight * math.fsum(q * math.log(q) for q in p if q)
