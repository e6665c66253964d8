"""Oracles of `lossfns.reconstruction.generative`."""

import math

import numpy as np

from tests.oracles.reconstruction._shared import mean_of


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
