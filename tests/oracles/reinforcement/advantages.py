"""Oracles of `lossfns.reinforcement.advantages`."""

import math

import numpy as np


def gae(rewards, values, bootstrap=None, ends=None, *, discount=1.0, decay=0.95):
    """Schulman 2015, equation 16: the sum of discounted differences up to the end of the episode."""
    result = np.zeros(rewards.shape)
    for row, start in np.ndindex(rewards.shape):
        length, weight = rewards.shape[1], 1.0
        for t in range(start, length):
            over = ends is not None and bool(ends[row, t])
            final = 0.0 if bootstrap is None else bootstrap[row]
            after = 0.0 if over else values[row, t + 1] if t + 1 < length else final
            result[row, start] += weight * (rewards[row, t] + discount * after - values[row, t])
            weight *= discount * decay
            if over:
                break
    return result


def rloo(rewards):
    """Kool 2019: minus the mean of the others, one by one."""
    result = np.zeros(rewards.shape)
    for group, i in np.ndindex(rewards.shape):
        others = [float(r) for j, r in enumerate(rewards[group]) if j != i]
        result[group, i] = rewards[group, i] - math.fsum(others) / len(others) if others else 0.0
    return result


def group_advantages(rewards, *, ddof=1, epsilon=1e-4, scale=True):
    """Shao 2024, section 4.1.2."""
    result = np.zeros(rewards.shape)
    for group in range(len(rewards) if rewards.size else 0):
        row = [float(r) for r in rewards[group]]
        mean = math.fsum(row) / len(row)
        centred = [r - mean for r in row]
        deviation = math.sqrt(math.fsum(c * c for c in centred) / max(len(row) - ddof, 1))
        spread = deviation + epsilon if scale else 1.0
        result[group] = [c / spread if spread else 0.0 for c in centred]
    return result
