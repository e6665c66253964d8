"""Losses of single answers, each labelled good or bad: KTO, BCO."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    check_array,
    check_where,
    finite,
    keep_rows,
    loss,
    non_negative,
    positive,
    prepare,
    zero_masked,
)
from lossfns._numerics import multiplied
from lossfns.preference._shared import signs


def _mean(values: jax.Array, where: jax.Array | None, axis_name: AxisName) -> tuple[jax.Array, jax.Array]:
    """Mean and number of the present values on all devices; 0 if there are none."""
    count = jnp.sum(jnp.ones(values.shape, bool) if where is None else where, dtype=values.dtype)
    total = jnp.sum(zero_masked(where, values))
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1), count


@loss(static=("axis_name",), beta=positive, desirable_weight=non_negative, undesirable_weight=non_negative)
def kto(
    policy: jax.Array,
    reference: jax.Array,
    desirable: jax.Array,
    mismatched_policy: jax.Array,
    mismatched_reference: jax.Array,
    *,
    beta: float | jax.Array = 0.1,
    desirable_weight: float | jax.Array = 1.0,
    undesirable_weight: float | jax.Array = 1.0,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Kahneman-Tversky optimisation (KTO): values of good and bad answers relative to a reference point.

    $$\lambda_D\, (1 - \sigma(\beta (r - z_0))) \text{ or } \lambda_U\, (1 - \sigma(\beta (z_0 - r))), \quad
    r = \log \frac{\pi(y)}{\pi_0(y)}$$

    The reference point $z_0$ estimates the KL divergence from the reference policy: the batch mean of
    $\log \pi(y') / \pi_0(y')$ for answers $y'$ to other prompts, at least 0. It has no gradient.

    Args:
        policy: [...], log-probability of each answer, summed over its tokens, in nats.
        reference: [...], the same under the reference policy $\pi_0$.
        desirable: [...], boolean, or integers 1 (good) and 0 (bad).
        mismatched_policy: [...], log-probability of an answer given another example's prompt, such as the next one's,
            for the estimate of $z_0$.
        mismatched_reference: [...], the same under the reference policy.
        beta: $\beta$.
        desirable_weight: $\lambda_D$.
        undesirable_weight: $\lambda_U$.
        where: [...], boolean; False excludes the answer and its mismatched answer.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [...], between 0 and the answer's weight. An integer other than 0 and 1 gives NaN.

    Example:
        Both log-ratios are log 3, and 0 for mismatched answers: 1/4 for the good one, 3/4 for the bad one.

        >>> gained, zero = jnp.log(jnp.array([3.0, 3.0])), jnp.zeros(2)
        >>> print(kto(gained, zero, jnp.array([True, False]), zero, zero, beta=1.0).round(4))
        [0.25 0.75]

    Conventions:
        - The weights multiply the values but not the mean's denominator, as in the authors' code and TRL.
        - The authors' code averages over the mismatched answers with a non-zero log-ratio, of which there are none at
          the first step; here, as in TRL, over all. Otherwise the two are equal.
        - A $z_0$ per device is a different loss: with log-ratios -1 on one device and 3 on another, the global estimate
          is 1, the local ones are 0 and 3. Each micro-batch has its own estimate.

    References:
        Ethayarajh et al. 2024, arXiv:2402.01306.
    """
    present, (policy, reference, off_policy, off_reference) = prepare(
        where,
        policy=policy,
        reference=reference,
        mismatched_policy=mismatched_policy,
        mismatched_reference=mismatched_reference,
    )
    sign = signs("desirable", desirable, policy.shape, "of policy", policy.dtype)
    baseline, _ = _mean(off_policy - off_reference, present, axis_name)
    baseline = jax.lax.stop_gradient(jnp.maximum(baseline, 0))
    gain = multiplied(policy - reference - baseline, as_scalar(beta, policy.dtype))
    weight = jnp.where(sign > 0, as_scalar(desirable_weight, gain.dtype), as_scalar(undesirable_weight, gain.dtype))
    return zero_masked(present, weight * jax.nn.sigmoid(-sign * gain))


@loss(beta=positive, shift=finite)
def bco(
    policy: jax.Array,
    reference: jax.Array,
    desirable: jax.Array,
    *,
    beta: float | jax.Array = 0.1,
    shift: float | jax.Array = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Binary classifier optimisation (BCO): the implicit reward is the logit of "good answer".

    $$-\log \sigma(\pm (r - \delta)), \quad r = \beta \log \frac{\pi(y)}{\pi_0(y)}$$

    with plus for a good answer and minus for a bad one.

    Args:
        policy: [...], log-probability of each answer, summed over its tokens, in nats.
        reference: [...], the same under the reference policy $\pi_0$.
        desirable: [...], boolean, or integers 1 (good) and 0 (bad).
        beta: $\beta$.
        shift: $\delta$, the running mean reward, a scalar from `update_reward_shift`; no gradient.
        where: [...], boolean; False excludes the answer.

    Returns:
        [...], nats per answer. An integer other than 0 and 1 gives NaN.

    Example:
        Rewards log 3 above the shift: log(4/3) for a good answer and log 4 for a bad one.

        >>> policy, zero = jnp.log(jnp.array([3.0, 3.0])) + 1, jnp.zeros(2)
        >>> print(bco(policy, zero, jnp.array([1, 0]), beta=1.0, shift=1.0).round(4))
        [0.2877 1.3863]

    Conventions:
        TRL updates the shift with the batch before using it: call `update_reward_shift` first. Its `bco_pair` is the
        sum of this loss over both answers, with shift 0.

    References:
        Jung et al. 2024, arXiv:2404.04656.
    """
    where, (policy, reference) = prepare(where, policy=policy, reference=reference)
    sign = signs("desirable", desirable, policy.shape, "of policy", policy.dtype)
    above = multiplied(policy - reference, as_scalar(beta, policy.dtype)) - jax.lax.stop_gradient(
        as_scalar(shift, policy.dtype)
    )
    return zero_masked(where, jax.nn.softplus(-sign * above))


class RewardShift(NamedTuple):
    """State of `update_reward_shift`: scalars.

    Attributes:
        shift: The mean of all rewards so far, the shift of `bco`.
        number: Their number.
    """

    shift: jax.Array
    number: jax.Array


@loss(static=("axis_name",))
def update_reward_shift(
    state: RewardShift, rewards: jax.Array, *, where: jax.Array | None = None, axis_name: AxisName = None
) -> RewardShift:
    r"""Updates the running mean of all rewards with a batch.

    $$n' = n + m, \quad \delta' = \delta + \frac{m}{n'} (\bar r - \delta)$$

    Args:
        state: The mean $\delta$ and the number $n$ so far: `RewardShift(jnp.zeros(()), jnp.zeros(()))` at the start.
        rewards: [...], $\beta \log \pi(y) / \pi_0(y)$ of the batch, good and bad answers together.
        where: [...], boolean; False excludes the reward.
        axis_name: Mapped device axis of the global batch.

    Returns:
        The new state, without gradient; NaN if the number so far is negative.

    Example:
        >>> state = RewardShift(jnp.array(1.0), jnp.array(2.0))
        >>> state = update_reward_shift(state, jnp.array([3.0, 5.0]))
        >>> float(state.shift), float(state.number)
        (2.5, 4.0)

    Conventions:
        A mean over the whole run, as in TRL. The paper's shift is halfway between the mean rewards of good and bad
        answers, the same if they are equally frequent.

    References:
        Jung et al. 2024, arXiv:2404.04656.
    """
    shift, seen = check_array("state.shift", state.shift), check_array("state.number", state.number)
    where = check_where(where, check_array("rewards", rewards).shape)
    dtype = accumulation_dtype(rewards, shift, seen)
    rewards = jax.lax.stop_gradient(keep_rows(where, rewards).astype(dtype))
    mean, number = _mean(rewards, where, axis_name)
    total = seen.astype(dtype) + number
    share = number / jnp.maximum(total, 1)
    sound = jnp.where(seen >= 0, 1, jnp.nan).astype(dtype)
    return RewardShift(sound * (shift.astype(dtype) + share * (mean - shift.astype(dtype))), sound * total)
