"""Oracles of `lossfns.reconstruction.images`."""

import math

import numpy as np

from tests.oracles.reconstruction._shared import mean_of


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
