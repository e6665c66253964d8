"""Relatives of GRPO, with the settings of their papers."""

import functools

import jax

from lossfns._contract import as_scalar, loss, non_negative, one_of, positive, zero_masked
from lossfns.reinforcement._surrogates import clip_share, ddof_number
from lossfns.reinforcement.groups import ADVANTAGES, answer_values, answer_weights


@loss(
    static=("advantages",),
    advantages=one_of("centred", "given"),
    clip_low=clip_share,
    clip_high=non_negative,
    length=positive,
    term_weights=functools.partial(answer_weights, normalizer="constant"),
)
def dr_grpo(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    rewards: jax.Array,
    *,
    advantages: str = "centred",
    clip_low: float | jax.Array = 0.2,
    clip_high: float | jax.Array = 0.2,
    length: float | jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Dr. GRPO: GRPO without standard deviation, division by answer length, and KL penalty.

    $$-\frac{T}{L} \min(\rho_{it} A_i,\, \mathrm{clip}(\rho_{it}, 1 - \epsilon_l, 1 + \epsilon_h) A_i), \quad
    A_i = r_i - \bar r$$

    The paper's loss is the mean with the weights `token_weights(where, normalizer="constant")`: the sum over tokens
    divided by L and by the number of answers.

    Args:
        log_probs: [..., n, T], log-probabilities of the tokens of n answers to each prompt, in nats.
        old_log_probs: [..., n, T], the same under the sampling policy.
        rewards: [..., n], the reward of each answer.
        advantages: "centred" or "given", as for `grpo`.
        clip_low: $\epsilon_l$, in 0 .. 1.
        clip_high: $\epsilon_h$.
        length: $L$, the constant to divide by, such as the maximal number of generated tokens; None for T, which varies
            with the padding.
        where: [..., n, T], boolean: the tokens of the answers. Empty answers are excluded with their rewards.

    Returns:
        [..., n, T], a value per token.

    Example:
        >>> import jax.numpy as jnp
        >>> log_probs = jnp.zeros((4, 1))
        >>> print(dr_grpo(log_probs, log_probs, jnp.array([1.0, 0.0, 0.0, 0.0]))[:, 0])
        [-0.75  0.25  0.25  0.25]

    Conventions:
        The authors' code and TRL divide by the maximal number of generated tokens, verl by the padded length.

    References:
        Liu et al. 2025, arXiv:2503.20783.
    """
    where, new, values = answer_values(
        log_probs, old_log_probs, rewards, where, advantages=advantages, bounds=(clip_low, clip_high)
    )
    if length is not None:
        values *= new.shape[-1] / as_scalar(length, new.dtype)
    return zero_masked(where, values)


@loss(
    static=("advantages",),
    advantages=one_of(*ADVANTAGES),
    clip_low=clip_share,
    clip_high=non_negative,
    ddof=ddof_number,
    epsilon=non_negative,
    term_weights=functools.partial(answer_weights, normalizer="global_tokens"),
)
def dapo(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    rewards: jax.Array,
    *,
    advantages: str = "standardised",
    clip_low: float | jax.Array = 0.2,
    clip_high: float | jax.Array = 0.28,
    ddof: float | jax.Array = 1,
    epsilon: float | jax.Array = 1e-4,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""DAPO, decoupled clip and dynamic sampling: GRPO with a higher upper bound and a mean over tokens.

    $$-\min(\rho_{it} A_i,\, \mathrm{clip}(\rho_{it}, 1 - \epsilon_l, 1 + \epsilon_h) A_i)$$

    The term's weights are `token_weights(where, normalizer="global_tokens")`, that is `where`. There is
    no KL penalty.

    Args:
        log_probs: [..., n, T], log-probabilities of the tokens of n answers to each prompt, in nats.
        old_log_probs: [..., n, T], the same under the sampling policy.
        rewards: [..., n], the reward of each answer, including any length penalty.
        advantages: As for `grpo`.
        clip_low: $\epsilon_l$, in 0 .. 1.
        clip_high: $\epsilon_h$.
        ddof: 1 for the unbiased variance of the rewards, 0 for the population's.
        epsilon: Added to the standard deviation.
        where: [..., n, T], boolean: the tokens of the answers. Empty answers are excluded with their rewards.

    Returns:
        [..., n, T], a value per token.

    Example:
        A ratio of 2 is clipped to 1.28 for a positive advantage.

        >>> import jax.numpy as jnp
        >>> new, old = jnp.full((2, 1), jnp.log(0.5)), jnp.full((2, 1), jnp.log(0.25))
        >>> print(dapo(new, old, jnp.array([1.0, -1.0]), ddof=0, epsilon=0.0)[:, 0].round(4))
        [-1.28  2.  ]

    Conventions:
        The paper's formula divides by the tokens of a prompt's answers inside the expectation over prompts
        ("group_tokens"); its code, verl and TRL by all tokens of the batch. Dynamic sampling, which drops groups with
        equal rewards, is left to the data: here their values are 0 but their tokens count.

    References:
        Yu et al. 2025, arXiv:2503.14476.
    """
    where, _, values = answer_values(
        log_probs,
        old_log_probs,
        rewards,
        where,
        advantages=advantages,
        bounds=(clip_low, clip_high),
        ddof=ddof,
        epsilon=epsilon,
    )
    return zero_masked(where, values)


@loss(
    static=("advantages",),
    advantages=one_of(*ADVANTAGES),
    clip_low=clip_share,
    clip_high=non_negative,
    ddof=ddof_number,
    epsilon=non_negative,
    term_weights=functools.partial(answer_weights, normalizer="sequence"),
)
def gspo(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    rewards: jax.Array,
    *,
    advantages: str = "standardised",
    clip_low: float | jax.Array = 3e-4,
    clip_high: float | jax.Array = 4e-4,
    ddof: float | jax.Array = 1,
    epsilon: float | jax.Array = 1e-4,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Group sequence policy optimisation (GSPO): one ratio per answer.

    $$-\min(s_i A_i,\, \mathrm{clip}(s_i, 1 - \epsilon_l, 1 + \epsilon_h) A_i), \quad
    s_i = \left( \frac{\pi(o_i)}{\pi_{\mathrm{old}}(o_i)} \right)^{1 / |o_i|}$$

    Each token has its answer's value; the term's weights are `token_weights(where, normalizer="sequence")`, for a mean
    over answers.

    Args:
        log_probs: [..., n, T], log-probabilities of the tokens of n answers to each prompt, in nats.
        old_log_probs: [..., n, T], the same under the sampling policy.
        rewards: [..., n], the reward of each answer.
        advantages: As for `grpo`.
        clip_low: $\epsilon_l$, in 0 .. 1; the ratio is near 1, so the bounds are small.
        clip_high: $\epsilon_h$.
        ddof: 1 for the unbiased variance of the rewards, 0 for the population's.
        epsilon: Added to the standard deviation.
        where: [..., n, T], boolean: the tokens of the answers. Empty answers are excluded with their rewards.

    Returns:
        [..., n, T], a value per token.

    Example:
        Token ratios of 4 and 1 give the answer a ratio of 2.

        >>> import jax.numpy as jnp
        >>> new, old = jnp.log(jnp.array([[0.8, 0.5]] * 2)), jnp.log(jnp.array([[0.2, 0.5]] * 2))
        >>> print(gspo(new, old, jnp.array([1.0, -1.0]), clip_high=9.0, ddof=0, epsilon=0.0).round(4))
        [[-2. -2.]
         [ 2.  2.]]

    Conventions:
        The bounds are from the paper's section 5.1, three orders of magnitude below GRPO's. Its token-level variant has
        the same value and, with these weights, the same gradient.

    References:
        Zheng et al. 2025, arXiv:2507.18071.
    """
    where, _, values = answer_values(
        log_probs,
        old_log_probs,
        rewards,
        where,
        advantages=advantages,
        bounds=(clip_low, clip_high),
        ddof=ddof,
        epsilon=epsilon,
        answer_ratio=True,
    )
    return zero_masked(where, values)


@loss(
    static=("advantages",),
    advantages=one_of(*ADVANTAGES),
    clip_low=clip_share,
    clip_high=non_negative,
    ddof=ddof_number,
    epsilon=non_negative,
    term_weights=functools.partial(answer_weights, normalizer="global_tokens"),
)
def cispo(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    rewards: jax.Array,
    *,
    advantages: str = "standardised",
    clip_low: float | jax.Array = 1.0,
    clip_high: float | jax.Array = 4.0,
    ddof: float | jax.Array = 1,
    epsilon: float | jax.Array = 1e-4,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""CISPO: clips the importance-sampling weight but keeps the gradient of every token.

    $$-\hat\rho_{it} A_i \log \pi(o_{it}), \quad \hat\rho = \mathrm{clip}(\rho, 1 - \epsilon_l, 1 + \epsilon_h)$$

    where $\hat\rho$ has no gradient. The term's weights are `token_weights(where, normalizer="global_tokens")`, i.e.
    `where`.

    Args:
        log_probs: [..., n, T], log-probabilities of the tokens of n answers to each prompt, in nats.
        old_log_probs: [..., n, T], the same under the sampling policy.
        rewards: [..., n], the reward of each answer.
        advantages: As for `grpo`.
        clip_low: $\epsilon_l$, in 0 .. 1; 1 for no lower bound, as in the paper.
        clip_high: $\epsilon_h$.
        ddof: 1 for the unbiased variance of the rewards, 0 for the population's.
        epsilon: Added to the standard deviation.
        where: [..., n, T], boolean: the tokens of the answers. Empty answers are excluded with their rewards.

    Returns:
        [..., n, T], a value per token. Only its gradient is meaningful.

    Example:
        A ratio of 8 is clipped to 5.

        >>> import jax.numpy as jnp
        >>> new, old = jnp.log(jnp.array([[0.5], [0.5]])), jnp.log(jnp.array([[0.0625], [0.0625]]))
        >>> values = cispo(new, old, jnp.array([1.0, -1.0]), ddof=0, epsilon=0.0)
        >>> print((values / jnp.log(2.0))[:, 0].round(4))
        [ 5. -5.]

    Conventions:
        The upper bound is $1 + \epsilon_h$ as in the paper, which does not give its value; TRL's `epsilon_high` is the
        bound itself, and its 5.0 (from ScaleRL, Khatri et al. 2025, arXiv:2510.13786) is 4.0 here. verl clips by
        default on both sides at PPO's bounds.

    References:
        MiniMax 2025, arXiv:2506.13585.
    """
    where, _, values = answer_values(
        log_probs,
        old_log_probs,
        rewards,
        where,
        advantages=advantages,
        bounds=(clip_low, clip_high),
        ddof=ddof,
        epsilon=epsilon,
        clip_weight=True,
    )
    return zero_masked(where, values)
