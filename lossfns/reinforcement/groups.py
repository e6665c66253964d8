"""GRPO, the code it shares with its relatives, and token weights."""

from typing import Any

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_array,
    check_shape,
    check_where,
    keep_rows,
    loss,
    non_negative,
    one_of,
    positive,
    zero_masked,
)
from lossfns._numerics import excess
from lossfns.reinforcement._surrogates import clip_share, clipped, ddof_number, weighted
from lossfns.reinforcement.advantages import standardised

NORMALIZERS = ("sequence", "group_tokens", "batch_tokens", "global_tokens", "constant")


@loss(static=("normalizer",), normalizer=one_of(*NORMALIZERS))
def token_weights(where: jax.Array, *, normalizer: str = "sequence") -> jax.Array:
    r"""Token weights, which set the denominator of the mean over tokens.

    With them, the mean of the values of `grpo` or any token loss, $\sum w v / \sum w$ over all tokens, micro-batches
    and devices, is

    - "sequence": $w = 1 / |o_i|$. The mean over answers of means over their tokens (GRPO).
    - "group_tokens": $w = 1 / \sum_j |o_j|$ over the group. The mean over prompts of means over all tokens of their
      answers (the formula of DAPO and CISPO).
    - "batch_tokens": $w = 1 / \sum_j |o_j|$ over this call's batch. The mean over micro-batches and devices of
      means over their tokens, which depends on the split of the batch.
    - "global_tokens": $w = 1$. The mean over all tokens, for any split of the batch (the code of DAPO).
    - "constant": $w = 1 / T$ at all T positions of an answer. The sum over tokens divided by T and by the number of
      answers; with the `length` of `grpo`, divided by it instead of T (Dr. GRPO).

    Args:
        where: [..., T], boolean: the tokens that count; empty answers are ignored. For "group_tokens" [..., n, T], n
            the answers to a prompt.
        normalizer: One of the names above.

    Returns:
        [..., T], float32 (float64 in JAX's x64 mode), not negative.

    Example:
        Answers of one and three tokens.

        >>> where = jnp.array([[True, False, False], [True, True, True]])
        >>> print(token_weights(where).round(4))
        [[1.     0.     0.    ]
         [0.3333 0.3333 0.3333]]
        >>> print(token_weights(where, normalizer="group_tokens"))
        [[0.25 0.   0.  ]
         [0.25 0.25 0.25]]

    Conventions:
        In TRL "sequence" is the `loss_type` `grpo`, "batch_tokens" `bnpo`, "constant" `dr_grpo`, "global_tokens" `dapo`
        and `cispo`; TRL's `grpo`, unlike verl, counts empty answers in the denominator. In verl "sequence" is
        `seq-mean-token-mean`, "global_tokens" `token-mean` and "constant" `seq-mean-token-sum-norm`, which sums over
        answers instead of averaging.

    References:
        Shao et al. 2024, arXiv:2402.03300. Yu et al. 2025, arXiv:2503.14476. Liu et al. 2025, arXiv:2503.20783.
    """
    check_array("where", where, "boolean")
    axes = 2 if normalizer == "group_tokens" else 1
    if where.ndim < axes:
        raise ValueError(f"where must have at least {axes} axes for {normalizer!r}, got shape {where.shape}")
    ones = where.astype(jnp.result_type(float))
    if normalizer == "constant":
        present = jnp.any(where, axis=-1, keepdims=True)
        return jnp.broadcast_to(present, where.shape).astype(ones.dtype) / max(where.shape[-1], 1)
    if normalizer == "global_tokens":
        return ones
    over: dict[str, int | tuple[int, int] | None] = {"sequence": -1, "group_tokens": (-2, -1), "batch_tokens": None}
    return ones / jnp.maximum(jnp.sum(ones, axis=over[normalizer], keepdims=True), 1)


def answer_weights(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    rewards: jax.Array,
    *,
    normalizer: str = "sequence",
    where: jax.Array | None = None,
    **options: Any,
) -> jax.Array:
    """The term weights of `grpo` and its relatives, from the same arguments."""
    return token_weights(jnp.ones(log_probs.shape, bool) if where is None else where, normalizer=normalizer)


ADVANTAGES = ("standardised", "centred", "given")


def answer_values(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    rewards: jax.Array,
    where: jax.Array | None,
    *,
    advantages: str,
    bounds: tuple[float | jax.Array, float | jax.Array],
    ddof: float | jax.Array = 1,
    epsilon: float | jax.Array = 1e-4,
    answer_ratio: bool = False,
    clip_weight: bool = False,
) -> tuple[jax.Array | None, jax.Array, jax.Array]:
    """Checks the arguments of `grpo` and its relatives; returns the mask, the sanitised `log_probs` and the values.

    `answer_ratio` uses one ratio per answer, the geometric mean over its tokens (GSPO); `clip_weight` clips the ratio
    as a constant weight of log pi (CISPO).
    """
    check_array("log_probs", log_probs)
    grouped = advantages != "given"
    if log_probs.ndim < 1 + grouped:
        axes = "answers of a group and tokens" if grouped else "tokens"
        raise ValueError(f"log_probs must have last axes of {axes}, got shape {log_probs.shape}")
    check_shape("old_log_probs", check_array("old_log_probs", old_log_probs), log_probs.shape, "of log_probs")
    check_shape("rewards", check_array("rewards", rewards), log_probs.shape[:-1], "of log_probs without the token axis")
    where = check_where(where, log_probs.shape)
    dtype = accumulation_dtype(log_probs, old_log_probs, rewards)
    new = keep_rows(where, log_probs).astype(dtype)
    old = jax.lax.stop_gradient(keep_rows(where, old_log_probs).astype(dtype))

    tokens = jnp.ones(log_probs.shape, bool) if where is None else where
    present = jnp.any(tokens, axis=-1)
    advantage = jax.lax.stop_gradient(keep_rows(present, rewards).astype(dtype))
    if grouped:
        count = jnp.sum(present, axis=-1, keepdims=True, dtype=dtype)
        advantage = standardised(advantage, present, count, ddof, epsilon, advantages == "standardised")
    advantage = jnp.broadcast_to(advantage[..., None], new.shape)

    log_ratio = new - old
    if answer_ratio:
        number = jnp.maximum(jnp.sum(tokens, axis=-1, keepdims=True, dtype=dtype), 1)
        log_ratio = jnp.broadcast_to(jnp.sum(zero_masked(where, log_ratio), axis=-1, keepdims=True) / number, new.shape)
    low, high = (as_scalar(bound, dtype) for bound in bounds)
    if clip_weight:
        return where, new, weighted(new, log_ratio, advantage, low, high)
    return where, new, clipped(log_ratio, advantage, low, high, None)


@loss(
    static=("advantages", "normalizer"),
    term_weights=answer_weights,
    advantages=one_of(*ADVANTAGES),
    ddof=ddof_number,
    epsilon=non_negative,
    clip_low=clip_share,
    clip_high=non_negative,
    kl_weight=non_negative,
    normalizer=one_of(*NORMALIZERS),
    length=positive,
)
def grpo(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    rewards: jax.Array,
    *,
    reference_log_probs: jax.Array | None = None,
    advantages: str = "standardised",
    ddof: float | jax.Array = 1,
    epsilon: float | jax.Array = 1e-4,
    clip_low: float | jax.Array = 0.2,
    clip_high: float | jax.Array = 0.2,
    kl_weight: float | jax.Array = 0.04,
    normalizer: str = "sequence",
    length: float | jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Group relative policy optimisation (GRPO): PPO's surrogate with a prompt's other answers as baseline.

    $$-\min(\rho_{it} A_i,\, \mathrm{clip}(\rho_{it}, 1 - \epsilon_l, 1 + \epsilon_h) A_i) + \beta k_3, \quad
    \rho_{it} = \frac{\pi(o_{it})}{\pi_{\mathrm{old}}(o_{it})}, \quad A_i = \frac{r_i - \bar r}{s + \epsilon}$$

    The paper's loss is the mean of these values with the weights `token_weights(where, normalizer=normalizer)`,
    attached as `term_weights`, for any split into micro-batches and devices.

    Args:
        log_probs: [..., n, T], log-probabilities of the tokens of n answers to each prompt, in nats: minus
            `next_token`. Only they get a gradient.
        old_log_probs: [..., n, T], the same under the sampling policy; on the first step
            `jax.lax.stop_gradient(log_probs)`.
        rewards: [..., n], the reward of each answer.
        reference_log_probs: [..., n, T], the same under the reference policy, for the KL penalty; None for none.
        advantages: "standardised" subtracts the group's mean from the rewards and divides by its standard deviation;
            "centred" only subtracts the mean; "given" takes the rewards as advantages, from `group_advantages` or
            `rloo`, as needed for split groups, with any leading axes.
        ddof: 1 for the unbiased variance, 0 for the population's.
        epsilon: Added to the standard deviation.
        clip_low: $\epsilon_l$, in 0 .. 1; 1 for no lower bound.
        clip_high: $\epsilon_h$.
        kl_weight: $\beta$, used if there is a reference.
        normalizer: See `token_weights`. Only "constant" changes the values: they are multiplied by T / length.
        length: The constant of "constant", such as the maximal number of tokens; None for T.
        where: [..., n, T], boolean: the tokens of the answers. Empty answers are excluded with their rewards.

    Returns:
        [..., n, T], a value per token.

    Raises:
        ValueError: If `length` is given without its normalizer.

    Example:
        Four answers of one token on the first step: minus the advantages.

        >>> log_probs = jnp.zeros((4, 1))
        >>> values = grpo(log_probs, log_probs, jnp.array([1.0, 0.0, 0.0, 0.0]))
        >>> [round(float(v), 4) for v in values[:, 0]]
        [-1.4997, 0.4999, 0.4999, 0.4999]

    Conventions:
        - `ddof`, `epsilon`: see `group_advantages`.
        - TRL has no KL penalty unless `beta` is given; the paper has 0.04, DeepSeek-R1 0.001.
        - The mask also selects the group. To keep rewards of overlong answers in the baseline but their tokens out of
          the loss (DAPO's overlong filter), compute the advantages first: `advantages="given"`.
        - k3 as a loss has the gradient of the forward divergence: see `kl_estimate`.

    References:
        Shao et al. 2024, arXiv:2402.03300.
    """
    if length is not None and normalizer != "constant":
        raise ValueError(f"length is the constant of normalizer='constant', got length with normalizer={normalizer!r}")
    where, new, values = answer_values(
        log_probs,
        old_log_probs,
        rewards,
        where,
        advantages=advantages,
        bounds=(clip_low, clip_high),
        ddof=ddof,
        epsilon=epsilon,
    )
    if reference_log_probs is not None:
        name = "reference_log_probs"
        check_shape(name, check_array(name, reference_log_probs), log_probs.shape, "of log_probs")
        reference = jax.lax.stop_gradient(keep_rows(where, reference_log_probs).astype(new.dtype))
        values += as_scalar(kl_weight, new.dtype) * excess(new - reference)
    if length is not None:
        values *= new.shape[-1] / as_scalar(length, new.dtype)
    return zero_masked(where, values)
