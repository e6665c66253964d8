"""Oracles of the losses that restore an example."""

import math

import numpy as np

from tests.oracles.common import softplus


def mean_of(cost, *arrays):
    """[N]: the mean over features of a cost of numbers."""
    examples = zip(*arrays, strict=True)
    return np.array([np.mean([cost(*x) for x in zip(*map(np.ravel, rows), strict=True)]) for rows in examples])


def squared(prediction, target):
    return (prediction - target) ** 2


def denoising(predictions, clean, *, error="squared"):
    return mean_of(squared if error == "squared" else lambda p, x: abs(p - x), predictions, clean)


def normalised(patch, eps):
    """He 2022's code: unbiased variance."""
    mean = math.fsum(patch) / len(patch)
    variance = math.fsum((x - mean) ** 2 for x in patch) / (len(patch) - 1)
    return [(x - mean) / (math.sqrt(variance + eps) or 1.0) for x in patch]


def masked_patches(predictions, patches, *, norm_pix=False, eps=1e-6):
    values = np.zeros(patches.shape[:-1])
    for index in np.ndindex(values.shape):
        target = normalised(patches[index], eps) if norm_pix else patches[index]
        values[index] = np.mean([squared(p, t) for p, t in zip(predictions[index], target, strict=True)])
    return values


def simmim(predictions, patches):
    values = np.zeros(patches.shape[:-1])
    for index in np.ndindex(values.shape):
        values[index] = np.mean([abs(p - t) for p, t in zip(predictions[index], patches[index], strict=True)])
    return values


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


def denoising_score_matching(scores, noise, sigma, *, weighting="variance"):
    """Vincent 2011, equation 10; Song and Ermon 2019, equation 5."""
    values = []
    for s, e, level in zip(scores, noise, sigma, strict=True):
        if not 0 < level < math.inf:
            values.append(math.nan)
            continue
        weight = level**2 if weighting == "variance" else 1.0
        values.append(weight * math.fsum((a + b / level) ** 2 for a, b in zip(s.ravel(), e.ravel(), strict=True)) / 2)
    return np.array(values)


def diffusion(predictions, clean, noise, alpha_bar, *, target="noise", min_snr=None):
    """Ho 2020, equation 14; Salimans 2022, section 4; Hang 2023, section 3.4."""
    values = []
    for p, x, e, a in zip(predictions, clean, noise, alpha_bar, strict=True):
        if not 0 <= a <= 1:
            values.append(math.nan)
            continue
        velocity = math.sqrt(a) * e - math.sqrt(1 - a) * x
        wanted = {"noise": e, "clean": x, "velocity": velocity}[target]
        weight = 1.0
        if min_snr is not None:
            snr = a / (1 - a) if a < 1 else math.inf
            clipped = min(snr, min_snr)
            weight = {
                "clean": clipped,
                "noise": clipped / snr if snr else 1.0,
                "velocity": clipped / (snr + 1),
            }[target]
        values.append(weight * np.mean((p - wanted) ** 2))
    return np.array(values)


def flow_matching(predictions, data, noise, *, sigma_min=0.0):
    """Lipman 2023, equation 23."""
    return mean_of(lambda p, x1, x0: (p - (x1 - (1 - sigma_min) * x0)) ** 2, predictions, data, noise)
