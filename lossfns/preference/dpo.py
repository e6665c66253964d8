"""Losses of the margin between chosen and rejected answer, relative to a reference: DPO and its relatives."""

import math

import jax
import jax.numpy as jnp

from lossfns._contract import Number, as_scalar, loss, positive, probability_or_off, zero_masked
from lossfns._numerics import multiplied
from lossfns.preference._shared import below_half, log_ratios, preference_nll

_target = Number("above 0 and below 1/2", lambda v: (v > 0) & (v < 0.5))
_EXO_SMOOTHING = math.exp(-10)


@loss(beta=positive, label_smoothing=probability_or_off)
def dpo(
    policy_chosen: jax.Array,
    policy_rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    beta: float | jax.Array = 0.1,
    label_smoothing: float | jax.Array = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Direct preference optimisation.

    $$-(1 - \epsilon) \log \sigma(\beta h) - \epsilon \log \sigma(-\beta h), \quad
    h = \log \frac{\pi(y_w)}{\pi_0(y_w)} - \log \frac{\pi(y_l)}{\pi_0(y_l)}$$

    Args:
        policy_chosen: [...], log-probability of the chosen answer, summed over its tokens, in nats.
        policy_rejected: [...], log-probability of the rejected answer.
        reference_chosen: [...], log-probability of the chosen answer under the reference policy $\pi_0$.
        reference_rejected: [...], log-probability of the rejected answer under it.
        beta: $\beta$, the strength of the regularisation towards the reference.
        label_smoothing: $\epsilon$, the assumed fraction of flipped preferences ("conservative
            DPO"); 0 is the paper's loss.
        where: [...], boolean; False deletes the pair.

    Returns:
        [...], nats per pair. It is log 2 where policy and reference agree.

    Example:
        The policy has moved by log 3 / beta towards the chosen answer: odds of 3 to 1, log(4/3).

        >>> moved, zero = jnp.log(jnp.array([3.0])) / 0.5, jnp.zeros(1)
        >>> print(dpo(moved, zero, zero, zero, beta=0.5).round(4))
        [0.2877]

    Conventions:
        - The log-probabilities are sums over tokens, as in the paper and its authors' code. `sequence_log_probs` with
          `average=True` gives the length-normalised variant of later recipes.
        - With label smoothing this is cDPO; `robust_dpo` is another loss. TRL's `sigmoid` has no label smoothing.
        - SLiC's hinge on the same margin is `jax.nn.relu(1 - beta * h)`.
        - Nothing stops a gradient here: the reference's log-probabilities must come without one.

    References:
        Rafailov et al. 2023, arXiv:2305.18290. Mitchell 2023, "A note on DPO with noisy preferences and relationship to
        IPO" (cDPO).
    """
    where, chosen, rejected = log_ratios(policy_chosen, policy_rejected, reference_chosen, reference_rejected, where)
    h = chosen - rejected
    return zero_masked(where, preference_nll(multiplied(h, as_scalar(beta, h.dtype)), label_smoothing))


@loss(beta=positive, flip_rate=below_half)
def robust_dpo(
    policy_chosen: jax.Array,
    policy_rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    beta: float | jax.Array = 0.1,
    flip_rate: float | jax.Array = 0.1,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Robust DPO: an unbiased estimate of the DPO loss if preferences are flipped at a known rate.

    $$\frac{-(1 - \epsilon) \log \sigma(\beta h) + \epsilon \log \sigma(-\beta h)}{1 - 2 \epsilon}
    = -\log \sigma(\beta h) - \frac{\epsilon}{1 - 2 \epsilon} \beta h$$

    with $h$ as in `dpo`. Its mean over the flips is the DPO loss of the true preference. It is not bounded below.

    Args:
        policy_chosen: [...], log-probability of the chosen answer, summed over its tokens, in nats.
        policy_rejected: [...], log-probability of the rejected answer.
        reference_chosen: [...], log-probability of the chosen answer under the reference policy.
        reference_rejected: [...], log-probability of the rejected answer under it.
        beta: $\beta$, the strength of the regularisation towards the reference.
        flip_rate: $\epsilon$, the fraction of flipped preferences, below 1/2.
        where: [...], boolean; False deletes the pair.

    Returns:
        [...], nats per pair, of either sign.

    Example:
        At odds of 3 to 1: log(4/3) - log 3 / 8, where cDPO has log(4/3) + log 3 / 10.

        >>> moved, zero = jnp.log(jnp.array(3.0)), jnp.array(0.0)
        >>> round(float(robust_dpo(moved, zero, zero, zero, beta=1.0)), 4)
        0.1504
        >>> round(float(dpo(moved, zero, zero, zero, beta=1.0, label_smoothing=0.1)), 4)
        0.3975

    Conventions:
        cDPO adds $\epsilon \beta h$ where this subtracts $\epsilon \beta h / (1 - 2 \epsilon)$; TRL calls the flip rate
        `label_smoothing` here too.

    References:
        Ray Chowdhury et al. 2024, arXiv:2403.00409.
    """
    where, chosen, rejected = log_ratios(policy_chosen, policy_rejected, reference_chosen, reference_rejected, where)
    h = chosen - rejected
    z, epsilon = multiplied(h, as_scalar(beta, h.dtype)), as_scalar(flip_rate, h.dtype)
    return zero_masked(where, jax.nn.softplus(-z) - epsilon / (1 - 2 * epsilon) * z)


@loss(tau=positive)
def ipo(
    policy_chosen: jax.Array,
    policy_rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    tau: float | jax.Array = 0.1,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Identity preference optimisation (IPO): the squared distance of the margin from a finite target.

    $$\left( h - \frac{1}{2 \tau} \right)^2$$

    with $h$ as in `dpo`.

    Args:
        policy_chosen: [...], log-probability of the chosen answer in nats: summed over its tokens as in the paper, or
            averaged over them (`sequence_log_probs` with `average=True`), but all four the same way.
        policy_rejected: [...], log-probability of the rejected answer.
        reference_chosen: [...], log-probability of the chosen answer under the reference policy.
        reference_rejected: [...], log-probability of the rejected answer under it.
        tau: $\tau$, the strength of the regularisation towards the reference.
        where: [...], boolean; False deletes the pair.

    Returns:
        [...], squared nats per pair.

    Example:
        The target at tau = 1/4 is 2, and the margin is 3.

        >>> zero = jnp.zeros(1)
        >>> print(ipo(jnp.array([3.0]), zero, zero, zero, tau=0.25))
        [1.]

    Conventions:
        The paper's equation and the code of DPO's authors take sums over tokens, and so does the default here. TRL and
        HALOs take averages, TRL after correspondence with the paper's authors: with 10 tokens an answer at tau =
        0.1, a margin of 5 summed is at its target and costs 0, while its average of 0.5 costs 20.25. TRL calls tau
        beta.

    References:
        Azar et al. 2023, arXiv:2310.12036, equation 17.
    """
    where, chosen, rejected = log_ratios(policy_chosen, policy_rejected, reference_chosen, reference_rejected, where)
    h = chosen - rejected
    return zero_masked(where, jnp.square(h - 1 / (2 * as_scalar(tau, h.dtype))))


@loss(beta=positive, label_smoothing=_target)
def exo(
    policy_chosen: jax.Array,
    policy_rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    beta: float | jax.Array = 0.1,
    label_smoothing: float | jax.Array = _EXO_SMOOTHING,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Efficient exact optimisation (EXO) on preferences: the reverse KL divergence in place of DPO's forward one.

    $$q \log \frac{q}{1 - \epsilon} + (1 - q) \log \frac{1 - q}{\epsilon}, \quad q = \sigma(\beta h)$$

    with $h$ as in `dpo`.

    Args:
        policy_chosen: [...], log-probability of the chosen answer, summed over its tokens, in nats.
        policy_rejected: [...], log-probability of the rejected answer.
        reference_chosen: [...], log-probability of the chosen answer under the reference policy.
        reference_rejected: [...], log-probability of the rejected answer under it.
        beta: $\beta$, the strength of the regularisation towards the reference.
        label_smoothing: $\epsilon$, above 0 and below 1/2: without it the divergence is infinite. Where the margin is
            far on the wrong side the value is $-\log \epsilon$.
        where: [...], boolean; False deletes the pair.

    Returns:
        [...], nats per pair, at least 0.

    Example:
        Even odds against a target of 9 to 1: (log(5/9) + log 5) / 2.

        >>> zero = jnp.zeros(1)
        >>> print(exo(zero, zero, zero, zero, label_smoothing=0.1).round(4))
        [0.5108]

    Conventions:
        The authors' code takes the target's logarithms as 0 and -10, which leaves out $q \log(1 - \epsilon)$, at most
        4.5e-5 at that $\epsilon = e^{-10}$, the default here. TRL's default is 0, at which the loss is infinite; its
        older versions took 1e-3 for 0: 6.91 on the far wrong side, not 10.

    References:
        Ji et al. 2024, arXiv:2402.00856, equation 16.
    """
    where, chosen, rejected = log_ratios(policy_chosen, policy_rejected, reference_chosen, reference_rejected, where)
    h = chosen - rejected
    z, epsilon = multiplied(h, as_scalar(beta, h.dtype)), as_scalar(label_smoothing, h.dtype)
    # The entropy of sigmoid(z) is even in z; written for |z| nothing cancels, and at infinity it is 0.
    far = jnp.isinf(z)
    size = jnp.abs(jnp.where(far, 0, z))
    entropy = jnp.where(far, 0, jax.nn.softplus(-size) + size * jax.nn.sigmoid(-size))
    cross_entropy = -jax.nn.sigmoid(z) * jnp.log1p(-epsilon) - jax.nn.sigmoid(-z) * jnp.log(epsilon)
    return zero_masked(where, cross_entropy - entropy)
