"""Oracles of the losses of reinforcement learning."""

import math

import numpy as np


def each(function, *arrays, **kwargs):
    """A function of numbers, for each entry of arrays of one shape."""
    values = [function(*map(float, row), **kwargs) for row in zip(*(np.ravel(x) for x in arrays), strict=True)]
    return np.array(values).reshape(np.shape(arrays[0]))


def exponential(x):
    """e^x, infinite where float32 has no number for it."""
    return math.exp(x) if x < 88.72 else math.inf


def policy_gradient(log_probs, advantages):
    """Williams 1992; an action without advantage costs nothing."""
    return each(lambda p, a: -a * p if a else 0.0, log_probs, advantages)


def surrogate(log_ratio, advantage, clip_low, clip_high, dual_clip=None):
    """Schulman 2017, equation 7; Ye 2019, equation 5."""
    ratio = exponential(log_ratio)
    if advantage == 0:
        return 0.0
    value = min(ratio * advantage, min(max(ratio, 1 - clip_low), 1 + clip_high) * advantage)
    return -max(value, dual_clip * advantage) if dual_clip and advantage < 0 else -value


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


def k3(difference):
    """e^-d - 1 + d; the alternating series where the terms cancel."""
    if abs(difference) < 1e-2:
        return math.fsum((-difference) ** n / math.factorial(n) for n in range(2, 12))
    return exponential(-difference) - 1 + difference


def kl_estimate(log_probs, reference_log_probs, *, kind="k3"):
    """Schulman 2020."""
    estimate = {"k1": lambda d: d, "k2": lambda d: d * d / 2, "k3": k3}[kind]
    return each(lambda p, q: estimate(p - q), log_probs, reference_log_probs)


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
