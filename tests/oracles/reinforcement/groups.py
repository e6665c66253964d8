"""Oracles of `lossfns.reinforcement.groups`."""

import math

import numpy as np

from tests.oracles.reinforcement._shared import exponential, k3, surrogate
from tests.oracles.reinforcement.advantages import group_advantages


def grpo(
    log_probs,
    old_log_probs,
    rewards,
    reference_log_probs=None,
    *,
    baseline="group",
    scale="group",
    ddof=1,
    epsilon=1e-4,
    ratio="token",
    surrogate_form="clip",
    clip_low=0.2,
    clip_high=0.2,
    kl_weight=0.04,
    length=None,
):
    """Shao 2024, equation 3, token by token."""
    advantages = rewards
    if baseline == "group":
        advantages = group_advantages(rewards, ddof=ddof, epsilon=epsilon, scale=scale == "group")
    values, places = np.zeros(log_probs.shape), log_probs.shape[-1]
    for index in np.ndindex(log_probs.shape):
        *answer, _ = index
        log_ratio, advantage = log_probs[index] - old_log_probs[index], float(advantages[tuple(answer)])
        if ratio == "sequence":
            log_ratio = math.fsum(log_probs[tuple(answer)] - old_log_probs[tuple(answer)]) / places
        if surrogate_form == "clip":
            value = surrogate(log_ratio, advantage, clip_low, clip_high)
        else:
            weight = min(max(exponential(log_ratio), 1 - clip_low), 1 + clip_high)
            value = -weight * advantage * log_probs[index]
        if reference_log_probs is not None:
            value += kl_weight * k3(log_probs[index] - reference_log_probs[index])
        values[index] = value * places / length if length else value
    return values


def token_weights(where, *, normalizer="sequence"):
    """One over what a token's sum is divided by."""
    weights = np.zeros(where.shape)
    for index in np.argwhere(where):
        *answer, _ = (int(i) for i in index)
        number = {
            "sequence": where[tuple(answer)].sum(),
            "group_tokens": where[tuple(answer[:-1])].sum(),
            "batch_tokens": where.sum(),
            "global_tokens": 1,
            "constant": where.shape[-1],
        }[normalizer]
        weights[tuple(index)] = 1 / number
        if normalizer == "constant":
            weights[tuple(answer)] = 1 / number
    return weights
