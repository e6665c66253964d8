"""Oracles of `lossfns.noisy_labels.corrected`."""

import math

import numpy as np

from tests.oracles.noisy_labels._shared import nats_of


def bootstrapped(logits, labels, *, beta=0.95, form="soft"):
    """Reed 2014, equations 6 and 7."""
    values = []
    for row, y in zip(logits.tolist(), labels, strict=True):
        nats = nats_of(row)
        belief = (
            [math.exp(-n) for n in nats] if form == "soft" else [float(k == np.argmin(nats)) for k in range(len(nats))]
        )
        mixed = [beta * (k == y) + (1 - beta) * z for k, z in enumerate(belief)]
        values.append(sum(t * n for t, n in zip(mixed, nats, strict=True) if t))
    return np.array(values)


def forward_corrected(logits, labels, transition):
    """Patrini 2016, equation 5."""
    values = []
    for row, y in zip(logits.tolist(), labels, strict=True):
        noisy = [
            math.log(transition[k, y]) - n for k, n in enumerate(nats_of(row)) if transition[k, y] and n < math.inf
        ]
        top = max(noisy, default=-math.inf)
        values.append(-top - math.log(math.fsum(math.exp(v - top) for v in noisy)) if noisy else math.inf)
    return np.array(values)


def early_targets(logits, targets, *, momentum=0.7):
    """Liu 2020, equation 9."""
    p = np.array([[math.exp(-n) for n in nats_of(row)] for row in logits.tolist()]).reshape(targets.shape)
    return momentum * targets + (1 - momentum) * p


def early_learning(logits, labels, targets, *, strength=3.0, momentum=0.7):
    """Liu 2020, equation 6, with 1 - <p, t> as the sum of p (1 - t), which loses no digits."""
    values = []
    new = early_targets(logits, targets, momentum=momentum)
    for row, y, old, target in zip(logits.tolist(), labels, targets, new, strict=True):
        nats = nats_of(row)
        logs = [math.log(1 - t) - n for t, n in zip(target, nats, strict=True) if t < 1 and n < math.inf]
        top = max(logs, default=-math.inf)
        rest = top + math.log(math.fsum(math.exp(v - top) for v in logs)) if logs else -math.inf
        sound = min(old) >= 0 and sum(old) <= 1.02
        values.append(nats[y] + strength * rest if sound else math.nan)
    return np.array(values)
