"""Advantages: generalised advantage estimation, and baselines within a group of answers."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_array,
    check_shape,
    check_where,
    flag,
    keep_rows,
    loss,
    non_negative,
    probability,
    zero_masked,
)
from lossfns._numerics import row_shift, vary_like
from lossfns.reinforcement._surrogates import ddof_number


@loss(discount=probability, decay=probability)
def gae(
    rewards: jax.Array,
    values: jax.Array,
    *,
    discount: float | jax.Array = 1.0,
    decay: float | jax.Array = 0.95,
    bootstrap: jax.Array | None = None,
    ends: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Generalised advantage estimation (GAE).

    $$A_t = \delta_t + \gamma \lambda A_{t+1}, \quad \delta_t = r_t + \gamma V_{t+1} - V_t$$

    Args:
        rewards: [..., T], reward of each step. For language models a step is a token, and the answer's score is the
            reward of its last token.
        values: [..., T], predicted value of the state before each step.
        discount: $\gamma$, in 0 .. 1.
        decay: $\lambda$, in 0 .. 1: 0 for one-step differences, 1 for returns minus values.
        bootstrap: [...], value of the state after the last step, if the episode continues; None for 0, its end.
        ends: [..., T], boolean: the last steps of episodes, after which the row's next episode begins.
        where: [..., T], boolean; False excludes the step, at the end (padding) or in between (a tool's answer).

    Returns:
        [..., T]. Plus `values`, these are the targets of the value function.

    Example:
        One reward at the end, discount 1, values of 1/2: the last advantage is 1/2, halved at each step back.

        >>> rewards, values = jnp.array([0.0, 0.0, 1.0]), jnp.array([0.5, 0.5, 0.5])
        >>> print(gae(rewards, values, decay=0.5))
        [0.125 0.25  0.5  ]

    Conventions:
        Discount 1 and lambda 0.95 are usual for PPO on language models; elsewhere 0.99 is common. Episodes cut off by a
        time limit need `bootstrap`; TRL and verl use 0, and then standardise the advantages over the batch.

    References:
        Schulman et al. 2015, arXiv:1506.02438.
    """
    check_array("rewards", rewards)
    if rewards.ndim == 0:
        raise ValueError("rewards must have a last axis of steps, got a scalar")
    check_shape("values", check_array("values", values), rewards.shape, "of rewards")
    where = check_where(where, rewards.shape)
    dtype = accumulation_dtype(rewards, values)
    present = jnp.ones(rewards.shape, bool) if where is None else where
    last = jnp.zeros(rewards.shape[:-1], dtype)
    if bootstrap is not None:
        check_shape(
            "bootstrap", check_array("bootstrap", bootstrap), last.shape, f"of rewards {rewards.shape} at a step"
        )
        # A row without present steps does not use it.
        last = jnp.where(jnp.any(present, axis=-1), bootstrap.astype(dtype), 0)
    if ends is None:
        ends = jnp.zeros(rewards.shape, bool)
    check_shape("ends", check_array("ends", ends, "boolean"), rewards.shape, "of rewards")
    gamma, lam = as_scalar(discount, dtype), as_scalar(decay, dtype)

    def step(
        later: tuple[jax.Array, jax.Array], now: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        reward, value, ends_here, here = now
        # A `where`, since a product with 0 would let a NaN of the next episode through.
        next_advantage, next_value = (jnp.where(ends_here, 0, x) for x in later)
        advantage = reward + gamma * (next_value + lam * next_advantage) - value
        carry = jnp.where(here, advantage, later[0]), jnp.where(here, value, later[1])
        return carry, jnp.where(here, advantage, 0)

    columns = keep_rows(where, rewards).astype(dtype), keep_rows(where, values).astype(dtype), ends, present
    steps = tuple(jnp.moveaxis(x, -1, 0) for x in columns)
    zero = vary_like(jnp.zeros_like(last), *columns[:2], last, present)
    _, advantages = jax.lax.scan(step, (zero, zero + last), steps, reverse=True)
    return jnp.moveaxis(advantages, 0, -1)


def _members(where: jax.Array | None, rewards: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sanitised rewards, the mask, and the number of present answers of each group [..., 1]."""
    check_array("rewards", rewards)
    if rewards.ndim == 0:
        raise ValueError("rewards must have a last axis, the members of a group, got a scalar")
    present = jnp.ones(rewards.shape, bool) if where is None else where
    rewards = jax.lax.stop_gradient(keep_rows(where, rewards).astype(accumulation_dtype(rewards)))
    return rewards, present, jnp.sum(present, axis=-1, keepdims=True, dtype=rewards.dtype)


def _centred(rewards: jax.Array, present: jax.Array, count: jax.Array) -> jax.Array:
    """Rewards minus the mean of their group; 0 at masked members."""
    # Nearby rewards have an exact difference, while a mean of large ones loses digits.
    _, top = row_shift(jnp.where(present, rewards, -jnp.inf))
    above = jnp.where(present, rewards - top, 0)
    mean = jnp.sum(above, axis=-1, keepdims=True) / jnp.maximum(count, 1)
    return jnp.where(present, above - mean, 0)


@loss()
def rloo(rewards: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Leave-one-out advantages: the reward minus the mean reward of the other answers to the same prompt.

    $$A_i = r_i - \frac{1}{n - 1} \sum_{j \ne i} r_j$$

    Args:
        rewards: [..., n], the last axis the answers to one prompt.
        where: [..., n], boolean; False excludes the answer.

    Returns:
        [..., n], without gradient; 0 for a single answer. The loss is `policy_gradient` of the answers'
        log-probabilities (`sequence_log_probs`) and these.

    Example:
        >>> print(rloo(jnp.array([1.0, 0.0, 0.0])).round(4))
        [ 1.  -0.5 -0.5]

    Conventions:
        n / (n - 1) times the difference from the mean of all n, GRPO's without division by the standard deviation. The
        paper takes the gradient of the whole answer's log-probability, not of a mean over tokens.

    References:
        Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!". Ahmadian et al. 2024, arXiv:2402.14740.
    """
    where = check_where(where, check_array("rewards", rewards).shape)
    rewards, present, count = _members(where, rewards)
    return _centred(rewards, present, count) * count / jnp.maximum(count - 1, 1)


@loss(static=("scale",), ddof=ddof_number, epsilon=non_negative, scale=flag)
def group_advantages(
    rewards: jax.Array,
    *,
    ddof: float | jax.Array = 1,
    epsilon: float | jax.Array = 1e-4,
    scale: bool = True,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Advantages of GRPO: rewards standardised over the answers to a prompt.

    $$A_i = \frac{r_i - \bar r}{s + \epsilon}, \quad s^2 = \frac{1}{n - d} \sum_j (r_j - \bar r)^2$$

    Args:
        rewards: [..., n], the last axis the answers to one prompt.
        ddof: $d$, 1 for the unbiased variance and 0 for the population's.
        epsilon: $\epsilon$, added to the standard deviation.
        scale: Whether to divide by the standard deviation; False for Dr. GRPO.
        where: [..., n], boolean; False excludes the answer.

    Returns:
        [..., n], without gradient; 0 for a single answer, and if all rewards of a group are equal.

    Example:
        >>> rewards = jnp.array([1.0, 0.0, 0.0, 0.0])
        >>> [round(float(a), 4) for a in group_advantages(rewards)]
        [1.4997, -0.4999, -0.4999, -0.4999]
        >>> [round(float(a), 4) for a in group_advantages(rewards, ddof=0)]
        [1.7317, -0.5772, -0.5772, -0.5772]

    Conventions:
        The paper says only "std". TRL: ddof 1 and 1e-4. verl: ddof 1 and 1e-6. HALOs: ddof 0 and 1e-2. Dr.
        GRPO's code: 1 and 1e-8 for its baseline. At [1, 0, 0, 0] the first is 1.4997, 1.5000, 1.6930 and 1.5000.

    References:
        Shao et al. 2024, arXiv:2402.03300. Liu et al. 2025, arXiv:2503.20783 (Dr. GRPO).
    """
    where = check_where(where, check_array("rewards", rewards).shape)
    rewards, present, count = _members(where, rewards)
    return standardised(rewards, present, count, ddof, epsilon, scale)


def standardised(
    rewards: jax.Array,
    present: jax.Array,
    count: jax.Array,
    ddof: float | jax.Array,
    epsilon: float | jax.Array,
    scale: bool,
) -> jax.Array:
    """Rewards minus the mean of their group, over its standard deviation."""
    centred = _centred(rewards, present, count)
    if not scale:
        return zero_masked(present, centred)
    freedom = jnp.maximum(count - as_scalar(ddof, rewards.dtype), 1)
    deviation = jnp.sqrt(jnp.sum(centred * centred, axis=-1, keepdims=True) / freedom)
    spread = deviation + as_scalar(epsilon, rewards.dtype)
    return zero_masked(present, centred / jnp.where(spread == 0, 1, spread))
