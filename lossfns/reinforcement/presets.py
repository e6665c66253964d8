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
    r"""GRPO done right (Dr. GRPO): without standard deviation, answer length and KL penalty.

    $$-\frac{T}{L} \min(\rho_{it} A_i,\, \mathrm{clip}(\rho_{it}, 1 - \epsilon_l, 1 + \epsilon_h) A_i), \quad
    A_i = r_i - \bar r$$

    The paper's number is the mean with the weights `token_weights(where, normalizer="constant")`: the sum over tokens
    divided by L and by the number of answers.

    Args:
        log_probs: [..., n, T], log-probabilities of the tokens of n answers to each prompt, in nats.
        old_log_probs: [..., n, T], the same under the policy that drew them.
        rewards: [..., n], the reward of each answer.
        advantages: "centred" or "given", as for `grpo`.
        clip_low: $\epsilon_l$, in 0 .. 1.
        clip_high: $\epsilon_h$.
        length: $L$, the constant to divide by, such as the most tokens that may be generated; None for T, which changes
            with the padding.
        where: [..., n, T], boolean: the tokens of the answers. An answer without any is deleted, its reward too.

    Returns:
        [..., n, T], a value for each token.

    Example:
        >>> import jax.numpy as jnp
        >>> log_probs = jnp.zeros((4, 1))
        >>> print(dr_grpo(log_probs, log_probs, jnp.array([1.0, 0.0, 0.0, 0.0]))[:, 0])
        [-0.75  0.25  0.25  0.25]

    Conventions:
        The authors' code divides by the most tokens that may be generated, and so does TRL; verl by the padded length
        by default.

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
    r"""Decoupled clip and dynamic sampling policy optimisation: GRPO with a higher upper bound and a mean over tokens.

    $$-\min(\rho_{it} A_i,\, \mathrm{clip}(\rho_{it}, 1 - \epsilon_l, 1 + \epsilon_h) A_i)$$

    The weights of the term are `token_weights(where, normalizer="global_tokens")`, that is `where`: long answers count
    for as many tokens as they have. There is no KL penalty.

    Args:
        log_probs: [..., n, T], log-probabilities of the tokens of n answers to each prompt, in nats.
        old_log_probs: [..., n, T], the same under the policy that drew them.
        rewards: [..., n], the reward of each answer, its penalty for being too long included.
        advantages: As for `grpo`.
        clip_low: $\epsilon_l$, in 0 .. 1.
        clip_high: $\epsilon_h$.
        ddof: 1 for the unbiased variance of the rewards, 0 for the population's.
        epsilon: Added to the standard deviation.
        where: [..., n, T], boolean: the tokens of the answers. An answer without any is deleted, its reward too.

    Returns:
        [..., n, T], a value for each token.

    Example:
        A good token at a ratio of 2 is held at 1.28.

        >>> import jax.numpy as jnp
        >>> new, old = jnp.full((2, 1), jnp.log(0.5)), jnp.full((2, 1), jnp.log(0.25))
        >>> print(dapo(new, old, jnp.array([1.0, -1.0]), ddof=0, epsilon=0.0)[:, 0].round(4))
        [-1.28  2.  ]

    Conventions:
        The paper's formula divides by the tokens of one prompt's answers inside the expectation over prompts
        ("group_tokens"); its code, verl's and TRL's by those of the whole batch. Dynamic sampling, which leaves out
        groups whose rewards are all equal, is a choice of data: here such groups have value 0 but count as tokens.

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
    r"""Group sequence policy optimisation (GSPO): one ratio for a whole answer.

    $$-\min(s_i A_i,\, \mathrm{clip}(s_i, 1 - \epsilon_l, 1 + \epsilon_h) A_i), \quad
    s_i = \left( \frac{\pi(o_i)}{\pi_{\mathrm{old}}(o_i)} \right)^{1 / |o_i|}$$

    Each token has its answer's value; the weights of the term are `token_weights(where, normalizer="sequence")`, so
    that the mean is that over answers.

    Args:
        log_probs: [..., n, T], log-probabilities of the tokens of n answers to each prompt, in nats.
        old_log_probs: [..., n, T], the same under the policy that drew them.
        rewards: [..., n], the reward of each answer.
        advantages: As for `grpo`.
        clip_low: $\epsilon_l$, in 0 .. 1; the ratio is near 1, so the bounds are small.
        clip_high: $\epsilon_h$.
        ddof: 1 for the unbiased variance of the rewards, 0 for the population's.
        epsilon: Added to the standard deviation.
        where: [..., n, T], boolean: the tokens of the answers. An answer without any is deleted, its reward too.

    Returns:
        [..., n, T], a value for each token.

    Example:
        Token ratios of 4 and 1 make a ratio of 2 for the answer.

        >>> import jax.numpy as jnp
        >>> new, old = jnp.log(jnp.array([[0.8, 0.5]] * 2)), jnp.log(jnp.array([[0.2, 0.5]] * 2))
        >>> print(gspo(new, old, jnp.array([1.0, -1.0]), clip_high=9.0, ddof=0, epsilon=0.0).round(4))
        [[-2. -2.]
         [ 2.  2.]]

    Conventions:
        The bounds are those of the paper's section 5.1, three orders below GRPO's. Its token-level variant has the
        same value and, under these weights, the same gradient.

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
    r"""Clipped importance-sampling policy optimisation (CISPO): clips the weight and keeps the token's gradient.

    $$-\hat\rho_{it} A_i \log \pi(o_{it}), \quad \hat\rho = \mathrm{clip}(\rho, 1 - \epsilon_l, 1 + \epsilon_h)$$

    where $\hat\rho$ is a constant for the gradient. The weights of the term are `token_weights(where,
    normalizer="global_tokens")`, that is `where`.

    Args:
        log_probs: [..., n, T], log-probabilities of the tokens of n answers to each prompt, in nats.
        old_log_probs: [..., n, T], the same under the policy that drew them.
        rewards: [..., n], the reward of each answer.
        advantages: As for `grpo`.
        clip_low: $\epsilon_l$, in 0 .. 1; 1 is no lower bound, as in the paper.
        clip_high: $\epsilon_h$.
        ddof: 1 for the unbiased variance of the rewards, 0 for the population's.
        epsilon: Added to the standard deviation.
        where: [..., n, T], boolean: the tokens of the answers. An answer without any is deleted, its reward too.

    Returns:
        [..., n, T], a value for each token. Only its gradient means something.

    Example:
        A ratio of 8 is held at 5.

        >>> import jax.numpy as jnp
        >>> new, old = jnp.log(jnp.array([[0.5], [0.5]])), jnp.log(jnp.array([[0.0625], [0.0625]]))
        >>> values = cispo(new, old, jnp.array([1.0, -1.0]), ddof=0, epsilon=0.0)
        >>> print((values / jnp.log(2.0))[:, 0].round(4))
        [ 5. -5.]

    Conventions:
        The upper bound is $1 + \epsilon_h$ as in the paper, which does not say the value; TRL's `epsilon_high` is the
        bound itself, and its 5.0 (that of ScaleRL, Khatri et al. 2025, arXiv:2510.13786) is 4.0 here. verl clips on
        both sides at the bounds of PPO by default.

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
