"""Oracles of `lossfns.reconstruction.likelihood`."""

import math

import numpy as np

from tests.oracles._shared import softplus


def beta_vae(reconstructions, inputs, mean, log_variance, *, beta=1.0, likelihood="bernoulli", scale=1.0):
    """Kingma 2014, appendix B, with Higgins's beta."""

    def bernoulli(x, t):
        if not 0 <= t <= 1:
            return math.nan
        return (t * softplus(-x) if t else 0.0) + ((1 - t) * softplus(x) if t < 1 else 0.0)

    def gaussian(m, x):
        return ((x - m) / scale) ** 2 / 2 + math.log(scale * math.sqrt(2 * math.pi))

    cost = bernoulli if likelihood == "bernoulli" else gaussian
    values = []
    for n in range(len(inputs)):
        fit = sum(cost(*x) for x in zip(reconstructions[n].ravel(), inputs[n].ravel(), strict=True))
        kl = sum(m * m + np.exp(v) - 1 - v for m, v in zip(mean[n], log_variance[n], strict=True)) / 2
        values.append(fit + beta * kl)
    return np.array(values)
