"""Losses of the margin between chosen and rejected answer relative to a reference: DPO and its relatives."""

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
        beta: $\beta$, strength of the regularisation towards the reference.
        label_smoothing: $\epsilon$, the assumed fraction of flipped preferences (cDPO); 0 is the paper's loss.
        where: [...], boolean; False excludes the pair.

    Returns:
        [...], nats per pair. log 2 where policy and reference agree.

    Example:
        A margin of log 3 / beta: odds of 3 to 1, log(4/3).

        >>> moved, zero = jnp.log(jnp.array([3.0])) / 0.5, jnp.zeros(1)
        >>> print(dpo(moved, zero, zero, zero, beta=0.5).round(4))
        [0.2877]

    Conventions:
        - Log-probabilities are sums over tokens, as in the paper and its authors' code. `sequence_log_probs` with
          `average=True` gives the length-normalised variant of later recipes.
        - `robust_dpo` handles flips differently. TRL's `sigmoid` has no label smoothing.
        - SLiC's hinge on the same margin is `jax.nn.relu(1 - beta * h)`.
        - No gradient is stopped here: compute the reference's log-probabilities without one.

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
    r"""Robust DPO: an unbiased estimate of the DPO loss under preferences flipped at a known rate.

    $$\frac{-(1 - \epsilon) \log \sigma(\beta h) + \epsilon \log \sigma(-\beta h)}{1 - 2 \epsilon}
    = -\log \sigma(\beta h) - \frac{\epsilon}{1 - 2 \epsilon} \beta h$$

    with $h$ as in `dpo`. Its mean over flips is the DPO loss of the true preference. It is unbounded below.

    Args:
        policy_chosen: [...], log-probability of the chosen answer, summed over its tokens, in nats.
        policy_rejected: [...], log-probability of the rejected answer.
        reference_chosen: [...], log-probability of the chosen answer under the reference policy.
        reference_rejected: [...], log-probability of the rejected answer under it.
        beta: $\beta$, strength of the regularisation towards the reference.
        flip_rate: $\epsilon$, the fraction of flipped preferences, below 1/2.
        where: [...], boolean; False excludes the pair.

    Returns:
        [...], nats per pair; may be negative.

    Example:
        At odds of 3 to 1: log(4/3) - log 3 / 8, against cDPO's log(4/3) + log 3 / 10.

        >>> moved, zero = jnp.log(jnp.array(3.0)), jnp.array(0.0)
        >>> round(float(robust_dpo(moved, zero, zero, zero, beta=1.0)), 4)
        0.1504
        >>> round(float(dpo(moved, zero, zero, zero, beta=1.0, label_smoothing=0.1)), 4)
        0.3975

    Conventions:
        cDPO adds $\epsilon \beta h$ where this subtracts $\epsilon \beta h / (1 - 2 \epsilon)$. TRL calls the flip rate
        `label_smoothing` too.

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
    r"""Identity preference optimisation (IPO): squared distance of the margin from a finite target.

    $$\left( h - \frac{1}{2 \tau} \right)^2$$

    with $h$ as in `dpo`.

    Args:
        policy_chosen: [...], log-probability of the chosen answer in nats: summed over its tokens as in the paper, or
            averaged (`sequence_log_probs` with `average=True`), consistently in all four.
        policy_rejected: [...], log-probability of the rejected answer.
        reference_chosen: [...], log-probability of the chosen answer under the reference policy.
        reference_rejected: [...], log-probability of the rejected answer under it.
        tau: $\tau$, strength of the regularisation towards the reference.
        where: [...], boolean; False excludes the pair.

    Returns:
        [...], squared nats per pair.

    Example:
        At tau = 1/4 the target is 2; the margin is 3.

        >>> zero = jnp.zeros(1)
        >>> print(ipo(jnp.array([3.0]), zero, zero, zero, tau=0.25))
        [1.]

    Conventions:
        The paper's equation and the code of DPO's authors use sums over tokens. TRL and HALOs use averages, TRL after
        correspondence with the paper's authors: with 10 tokens per answer at tau = 0.1, a summed margin of 5 is at its
        target and costs 0, while its average of 0.5 costs 20.25. TRL calls tau beta.

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
    r"""Efficient exact optimisation (EXO) on preferences: the reverse KL divergence instead of DPO's forward one.

    $$q \log \frac{q}{1 - \epsilon} + (1 - q) \log \frac{1 - q}{\epsilon}, \quad q = \sigma(\beta h)$$

    with $h$ as in `dpo`.

    Args:
        policy_chosen: [...], log-probability of the chosen answer, summed over its tokens, in nats.
        policy_rejected: [...], log-probability of the rejected answer.
        reference_chosen: [...], log-probability of the chosen answer under the reference policy.
        reference_rejected: [...], log-probability of the rejected answer under it.
        beta: $\beta$, strength of the regularisation towards the reference.
        label_smoothing: $\epsilon$, above 0 and below 1/2: at 0 the divergence is infinite. For a margin far on the
            wrong side the value is $-\log \epsilon$.
        where: [...], boolean; False excludes the pair.

    Returns:
        [...], nats per pair, at least 0.

    Example:
        Equal odds against a target of 9 to 1: (log(5/9) + log 5) / 2.

        >>> zero = jnp.zeros(1)
        >>> print(exo(zero, zero, zero, zero, label_smoothing=0.1).round(4))
        [0.5108]

    Conventions:
        The authors' code takes the target's logarithms as 0 and -10, which omits $q \log(1 - \epsilon)$, at most
        4.5e-5 at $\epsilon = e^{-10}$, the default here. TRL's default is 0, an infinite loss; its older versions used
        1e-3 for 0: 6.91 on the far wrong side, not 10.

    References:
        Ji et al. 2024, arXiv:2402.00856, equation 16.
    """
    where, chosen, rejected = log_ratios(policy_chosen, policy_rejected, reference_chosen, reference_rejected, where)
    h = chosen - rejected
    z, epsilon = multiplied(h, as_scalar(beta, h.dtype)), as_scalar(label_smoothing, h.dtype)
    # The entropy of sigmoid(z) is even in z; written in |z| it does not cancel, and is 0 at infinity.
    far = jnp.isinf(z)
    size = jnp.abs(jnp.where(far, 0, z))
    entropy = jnp.where(far, 0, jax.nn.softplus(-size) + size * jax.nn.sigmoid(-size))
    cross_entropy = -jax.nn.sigmoid(z) * jnp.log1p(-epsilon) - jax.nn.sigmoid(-z) * jnp.log(epsilon)
    return zero_masked(where, cross_entropy - entropy)
