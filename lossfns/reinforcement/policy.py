"""Losses per action or token: policy gradient, PPO, entropy, KL estimates."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    Number,
    as_scalar,
    check_classes,
    loss,
    non_negative,
    one_of,
    positive,
    prepare,
    zero_masked,
)
from lossfns._numerics import excess, log_normalizer, row_shift, softmax
from lossfns.reinforcement._surrogates import clip_share, clipped, scored


@loss()
def policy_gradient(log_probs: jax.Array, advantages: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""REINFORCE: a loss with minus the policy gradient as its gradient, $-A \log \pi(a)$.

    Args:
        log_probs: [...], log-probabilities of the actions or tokens taken, in nats; for language models minus
            `next_token`.
        advantages: [...], advantages of the actions; no gradient.
        where: [...], boolean; False excludes the action.

    Returns:
        [...]. Only its gradient is meaningful.

    Example:
        >>> print(policy_gradient(jnp.array([-0.5, -2.0]), jnp.array([2.0, -1.0])))
        [ 1. -2.]

    Conventions:
        Repeat an answer's advantage for its tokens by `jnp.broadcast_to`, or use the answer's log-probability
        (`sequence_log_probs`), with the same gradient.

    References:
        Williams 1992, doi:10.1007/BF00992696.
    """
    where, (log_probs, advantages) = prepare(where, log_probs=log_probs, advantages=jax.lax.stop_gradient(advantages))
    return zero_masked(where, scored(log_probs, advantages))


@loss(
    clip_low=clip_share, clip_high=non_negative, dual_clip=Number("above 1 and finite", lambda v: (v > 1) & (v < 1e38))
)
def ppo_clip(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    *,
    clip_low: float | jax.Array = 0.2,
    clip_high: float | jax.Array = 0.2,
    dual_clip: float | jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Clipped surrogate of proximal policy optimisation (PPO).

    $$-\min(\rho A,\, \mathrm{clip}(\rho, 1 - \epsilon_l, 1 + \epsilon_h) A), \quad
    \rho = \frac{\pi(a)}{\pi_{\mathrm{old}}(a)}$$

    With a dual clip $c$ it is at most $-c A$ where $A < 0$.

    Args:
        log_probs: [...], log-probabilities of the actions or tokens taken, in nats.
        old_log_probs: [...], the same under the sampling policy, no gradient. On the first step
            `jax.lax.stop_gradient(log_probs)`, with the gradient of `policy_gradient`.
        advantages: [...], advantages of the actions; no gradient.
        clip_low: $\epsilon_l$, in 0 .. 1.
        clip_high: $\epsilon_h$.
        dual_clip: $c > 1$, 3 in its paper; None for none.
        where: [...], boolean; False excludes the action.

    Returns:
        [...].

    Example:
        A ratio of 2: clipped to 1.2 for a positive advantage, unclipped for a negative one.

        >>> new, old = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.25]))
        >>> [round(float(v), 4) for v in ppo_clip(new, old, jnp.array([1.0, -1.0]))]
        [-1.2, 2.0]

    Conventions:
        - verl has a dual clip of 3 by default, and clamps log-ratios to +-20; TRL's PPO has neither. TRL's GRPO has
          `delta`, which bounds the ratio for both signs of the advantage: the dual clip above 1 + clip_high.
        - The weights of the mean over tokens are `token_weights`.
        - Advantages are not standardised here; PPO for language models often does so over the batch.

    References:
        Schulman et al. 2017, arXiv:1707.06347. Ye et al. 2019, arXiv:1912.09729 (dual clip). Yu et al. 2025,
        arXiv:2503.14476 (two bounds).
    """
    where, (new, old, advantages) = prepare(
        where,
        log_probs=log_probs,
        old_log_probs=jax.lax.stop_gradient(old_log_probs),
        advantages=jax.lax.stop_gradient(advantages),
    )
    low, high = as_scalar(clip_low, new.dtype), as_scalar(clip_high, new.dtype)
    dual = None if dual_clip is None else as_scalar(dual_clip, new.dtype)
    return zero_masked(where, clipped(new - old, advantages, low, high, dual))


@loss(clip=positive)
def value_clip(
    values: jax.Array,
    old_values: jax.Array,
    returns: jax.Array,
    *,
    clip: float | jax.Array | None = 0.2,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Clipped value loss of PPO: half the larger squared error of prediction and clipped prediction.

    $$\tfrac12 \max\left( (v - R)^2,\, (v_{\mathrm{old}} + \mathrm{clip}(v - v_{\mathrm{old}}, -\epsilon, \epsilon) -
    R)^2 \right)$$

    Args:
        values: [...], predicted values.
        old_values: [...], values predicted when the actions were taken; no gradient.
        returns: [...], the targets, such as `gae(...) + old_values`; no gradient.
        clip: $\epsilon$; None for no clipping.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], squared units of the reward.

    Example:
        The value has moved by 1 onto its target, 0.8 beyond the clip: 0.8^2 / 2.

        >>> print(value_clip(jnp.array([1.0]), jnp.array([0.0]), jnp.array([1.0])).round(4))
        [0.32]

    Conventions:
        TRL, verl and OpenAI's code have the half; their coefficients (0.1, 0.5) multiply it.

    References:
        Schulman et al. 2017, arXiv:1707.06347 (the clip is in its code, not the paper).
    """
    where, (value, old, target) = prepare(
        where, values=values, old_values=jax.lax.stop_gradient(old_values), returns=jax.lax.stop_gradient(returns)
    )
    errors = jnp.square(value - target)
    if clip is not None:
        bound = as_scalar(clip, value.dtype)
        errors = jnp.maximum(errors, jnp.square(jnp.clip(value, old - bound, old + bound) - target))
    return zero_masked(where, errors / 2)


@loss()
def entropy_bonus(logits: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Negative entropy of a categorical policy, to add to a loss: $\sum_k p_k \log p_k$.

    Args:
        logits: [..., V], unnormalised log-probabilities in nats. A class at -inf is masked.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row, between -log V and 0. A row of -inf gives NaN. Infinite logits share the probability.

    Example:
        Two classes at equal odds, and one of them masked.

        >>> print(entropy_bonus(jnp.array([[0.0, 0.0], [0.0, -jnp.inf]])).round(4))
        [-0.6931  0.    ]

    Conventions:
        Give the term a positive weight (0.01 is common) to keep the entropy up. The entropy is exact, not the estimate
        $-\log p$ from the drawn token.

    References:
        Williams and Peng 1991, doi:10.1080/09540099108946587.
    """
    where, (x,) = prepare(where, row_axes=1, logits=logits)
    check_classes("logits", x)
    x = jnp.where(jnp.any(x == jnp.inf, axis=-1, keepdims=True), jnp.where(x == jnp.inf, 0, -jnp.inf), x)
    top, shift = row_shift(x)
    log_z = log_normalizer(x, shift)
    mean = jnp.sum(softmax(x, shift, log_z) * jnp.where(x == -jnp.inf, 0, x - shift), axis=-1)
    values = mean - jnp.where(log_z == -jnp.inf, 0, log_z)
    return zero_masked(where, jnp.where(top[..., 0] == -jnp.inf, jnp.nan, values))


@loss(static=("kind",), kind=one_of("k1", "k2", "k3"))
def kl_estimate(
    log_probs: jax.Array, reference_log_probs: jax.Array, *, kind: str = "k3", where: jax.Array | None = None
) -> jax.Array:
    r"""Estimates of $\mathrm{KL}(\pi \| \pi_0)$ from samples of $\pi$.

    $$k_1 = d, \quad k_2 = \tfrac12 d^2, \quad k_3 = e^{-d} - 1 + d, \qquad
    d = \log \pi(a) - \log \pi_0(a)$$

    Args:
        log_probs: [...], log-probabilities under $\pi$ of actions or tokens drawn from it, in nats.
        reference_log_probs: [...], the same under $\pi_0$; no gradient.
        kind: "k1", "k2" or "k3".
        where: [...], boolean; False excludes the sample.

    Returns:
        [...], nats per sample; k2 and k3 are at least 0.

    Example:
        A token twice as likely as under the reference: log 2, its square over 2, and log 2 - 1/2.

        >>> new, reference = jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.25]))
        >>> [round(float(kl_estimate(new, reference, kind=k)[0]), 4) for k in ("k1", "k2", "k3")]
        [0.6931, 0.2402, 0.1931]

    Conventions:
        As estimates, k1 and k3 are unbiased and k2 is biased. **As losses**, with the samples fixed, their
        expected gradients are

        - k1: zero, $E_\pi[\nabla \log \pi] = 0$: only noise. It belongs in the reward, without a gradient.
        - k2: the gradient of the reverse divergence itself, $\nabla \mathrm{KL}(\pi \| \pi_0)$.
        - k3: the gradient of the forward divergence, $\nabla \mathrm{KL}(\pi_0 \| \pi)$; this is GRPO's penalty.

        These hold for samples of the current policy. verl clamps $-d$ to +-20 and k3 to +-10, with gradient 0 beyond;
        here nothing is clamped.

    References:
        Schulman 2020, "Approximating KL divergence", joschu.net/blog/kl-approx.html. Shao et al. 2024,
        arXiv:2402.03300 (k3 in GRPO).
    """
    where, (new, reference) = prepare(
        where, log_probs=log_probs, reference_log_probs=jax.lax.stop_gradient(reference_log_probs)
    )
    difference = new - reference
    if kind == "k3":
        return zero_masked(where, excess(difference))
    return zero_masked(where, difference if kind == "k1" else difference * difference / 2)
