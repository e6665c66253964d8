"""Oracles of `lossfns.preference.unpaired`."""

import math

import numpy as np

from tests.oracles._shared import softplus
from tests.oracles.preference._shared import each, sigmoid


def kto(
    policy,
    reference,
    desirable,
    off_policy,
    off_reference,
    *,
    beta=0.1,
    desirable_weight=1.0,
    undesirable_weight=1.0,
):
    """Ethayarajh 2024, equation 8, with the estimate of the divergence of section 4.1."""
    gaps = [p - q for p, q in zip(off_policy.tolist(), off_reference.tolist(), strict=True)]
    z = max(0.0, math.fsum(gaps) / len(gaps)) if gaps else 0.0

    def value(p, q, good):
        gain = beta * (p - q - z)
        return desirable_weight * (1 - sigmoid(gain)) if good else undesirable_weight * (1 - sigmoid(-gain))

    return each(value, policy, reference, desirable)


def bco(policy, reference, desirable, *, beta=0.1, shift=0.0):
    """Jung 2024: binary cross-entropy of the shifted reward."""

    def value(p, q, good):
        logit = beta * (p - q) - float(shift)
        return softplus(-logit) if good else softplus(logit)

    return each(value, policy, reference, desirable)


def reward_shift(rewards):
    """The mean of everything and the number, beginning with a mean of 2 over 3 rewards."""
    total = 3 * 2.0 + math.fsum(map(float, rewards.ravel()))
    return np.array([total / (3 + rewards.size), 3 + rewards.size])
