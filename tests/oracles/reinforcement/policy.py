"""Oracles of `lossfns.reinforcement.policy`."""

import math

import numpy as np

from tests.oracles.reinforcement._shared import k3, surrogate


def each(function, *arrays, **kwargs):
    """A function of numbers, for each entry of arrays of one shape."""
    values = [function(*map(float, row), **kwargs) for row in zip(*(np.ravel(x) for x in arrays), strict=True)]
    return np.array(values).reshape(np.shape(arrays[0]))


def policy_gradient(log_probs, advantages):
    """Williams 1992; an action without advantage costs nothing."""
    return each(lambda p, a: -a * p if a else 0.0, log_probs, advantages)


def ppo_clip(log_probs, old_log_probs, advantages, *, clip_low=0.2, clip_high=0.2, dual_clip=None):
    bounds = clip_low, clip_high, dual_clip
    return each(lambda p, q, a: surrogate(p - q, a, *bounds), log_probs, old_log_probs, advantages)


def value_clip(values, old_values, returns, *, clip=0.2):
    """The value loss of PPO's code."""

    def value(v, old, target):
        held = v if clip is None else min(max(v, old - clip), old + clip)
        return max((v - target) ** 2, (held - target) ** 2) / 2

    return each(value, values, old_values, returns)


def entropy_bonus(logits):
    """sum p log p with 0 log 0 = 0, in the limit as infinite logits grow together."""
    values = np.zeros(logits.shape[:-1])
    for index in np.ndindex(values.shape):
        row = [float(x) for x in logits[index]]
        if max(row) == -math.inf:
            values[index] = math.nan
            continue
        top = max(row)
        weights = [1.0 if x == top else (0.0 if math.isinf(top) else math.exp(x - top)) for x in row]
        total = math.fsum(weights)
        logs = [(0.0 if x == top else x - top) - math.log(total) for x in row]
        values[index] = math.fsum(w / total * log for w, log in zip(weights, logs, strict=True) if w)
    return values


def kl_estimate(log_probs, reference_log_probs, *, kind="k3"):
    """Schulman 2020."""
    estimate = {"k1": lambda d: d, "k2": lambda d: d * d / 2, "k3": k3}[kind]
    return each(lambda p, q: estimate(p - q), log_probs, reference_log_probs)
