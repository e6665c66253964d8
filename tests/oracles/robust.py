"""Oracles of the losses for noisy labels."""

import math

import numpy as np

from tests.oracles.common import negative_log_probability


def nats_of(row):
    return [negative_log_probability(row, k) for k in range(len(row))]


def generalized_cross_entropy(logits, labels, *, q=0.7, truncation=0.0):
    """Zhang 2018, equations 6 and 9."""
    values = []
    for row, y in zip(logits.tolist(), labels, strict=True):
        nats = nats_of(row)[y]
        if truncation and math.exp(-nats) <= truncation:
            nats = -math.log(truncation)
        values.append((1 - math.exp(-nats) ** q) / q if q else nats)
    return np.array(values)


def symmetric_cross_entropy(logits, labels, *, alpha=0.1, beta=1.0, log_zero=-4.0):
    """Wang 2019, equation 5: both sums over all classes."""
    values = []
    for row, y in zip(logits.tolist(), labels, strict=True):
        nats = nats_of(row)
        reverse = -math.fsum(math.exp(-n) * (0.0 if k == y else log_zero) for k, n in enumerate(nats))
        values.append((alpha * nats[y] if alpha else 0.0) + beta * reverse)
    return np.array(values)


def normalized_active_passive(logits, labels, *, alpha=1.0, beta=1.0, gamma=0.0, log_zero=-4.0):
    """Ma 2020, equations 2 and 9; classes that do not exist are in no sum, in the limit as they vanish."""
    values = []
    for row, y in zip(logits.tolist(), labels, strict=True):
        nats = nats_of(row)
        focal = [(1 - math.exp(-n)) ** gamma * n if n else 0.0 for n in nats if n < math.inf]
        own = (1 - math.exp(-nats[y])) ** gamma * nats[y] if nats[y] else 0.0
        active = 1.0 if nats[y] == math.inf else own / math.fsum(focal) if math.fsum(focal) else 0.0
        values.append(alpha * active - beta * log_zero * (1 - math.exp(-nats[y])))
    return np.array(values)


def tempered_exp(x, t):
    if t == 1:
        return math.exp(x)
    base = 1 + (1 - t) * x
    return base ** (1 / (1 - t)) if base > 0 else 0.0


def tempered_log(x, t):
    if t == 1:
        return math.log(x) if x else -math.inf
    return (x ** (1 - t) - 1) / (1 - t)


def tempered_softmax(row, t):
    """Amid 2019, equation 6, the normaliser by bisection."""
    row = [x - max(row) for x in row if True]
    low, high = 0.0, 1.0
    while math.fsum(tempered_exp(x - high, t) for x in row if x > -math.inf) > 1:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        too_small = math.fsum(tempered_exp(x - middle, t) for x in row if x > -math.inf) > 1
        low, high = (middle, high) if too_small else (low, middle)
    return [tempered_exp(x - high, t) if x > -math.inf else 0.0 for x in row]


def bi_tempered(logits, labels, *, t1=0.8, t2=1.2):
    """Amid 2019, equation 7, with the label's row of the identity for y."""
    values = []
    for row, label in zip(logits.tolist(), labels, strict=True):
        if math.inf in row:
            row = [0.0 if x == math.inf else -math.inf for x in row]
        total = 0.0
        for k, p in enumerate(tempered_softmax(row, t2)):
            y = float(k == label)
            if y:
                total += y * (tempered_log(y, t1) - tempered_log(p, t1))
            total -= (y ** (2 - t1) - p ** (2 - t1)) / (2 - t1)
        values.append(total)
    return np.array(values)


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
