"""Losses of preference pairs without a reference policy: ORPO, SimPO, CPO, SLiC."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    as_scalar,
    finite,
    flag,
    loss,
    non_negative,
    non_negative_or_off,
    positive,
    prepare,
    probability_or_off,
    zero_masked,
)
from lossfns._numerics import multiplied
from lossfns.preference._shared import preference_nll


@loss(static=("with_nll",), weight=non_negative, with_nll=flag)
def orpo(
    chosen: jax.Array,
    rejected: jax.Array,
    *,
    weight: float | jax.Array = 0.1,
    with_nll: bool = True,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Odds-ratio preference optimisation (ORPO): fine-tuning on the chosen answer, plus an odds-ratio term.

    $$-\log p_w - \lambda \log \sigma \left( \log \frac{p_w}{1 - p_w} - \log \frac{p_l}{1 - p_l} \right)$$

    with $p$ the geometric mean of the probabilities of an answer's tokens.

    Args:
        chosen: [...], $\log p_w$: the log-probability of the chosen answer averaged over its tokens
            (`sequence_log_probs` with `average=True`), in nats, at most 0.
        rejected: [...], $\log p_l$, log-probability of the rejected answer.
        weight: $\lambda$.
        with_nll: Whether to add the first term. Without it the value is the weighted odds-ratio part, for use with a
            separate `next_token` term.
        where: [...], boolean; False excludes the pair.

    Returns:
        [...], nats per pair. A positive log-probability gives NaN. Equal answers have odds ratio 1, with gradient 0 if
        both are certain.

    Example:
        Odds of 3 to 1 and of 1 to 1, a ratio of 3: log(4/3) + 0.5 log(4/3).

        >>> print(orpo(jnp.log(jnp.array([0.75])), jnp.log(jnp.array([0.5])), weight=0.5).round(4))
        [0.4315]

    Conventions:
        The paper's first term is the mean over the answer's tokens, averaged over answers. The authors' code and TRL
        average over all tokens of the batch, by default including the prompt: `with_nll=False` and `next_token`.
        $\log(1 - p)$ is computed without cancellation; the authors' code has `log1p(-exp(x))` in float64 (in float32 it
        has no correct digit at x = -1e-8), and rounds the loss to bfloat16.

    References:
        Hong et al. 2024, arXiv:2403.07691, equations 6 and 7.
    """
    where, (x, y) = prepare(where, chosen=chosen, rejected=rejected)
    values = as_scalar(weight, x.dtype) * _odds_ratio_loss(x, y)
    return zero_masked(where, values - x if with_nll else values)


def _log1mexp(x: jax.Array) -> jax.Array:
    """log(1 - e^x) for x <= 0; NaN above."""
    near = x > -0.6931
    one = jnp.log(-jnp.expm1(jnp.where(near, x, -1)))
    return jnp.where(near, one, jnp.log1p(-jnp.exp(jnp.where(near, -1, x))))


@jax.custom_jvp
def _odds_ratio_loss(x: jax.Array, y: jax.Array) -> jax.Array:
    """-log sigmoid(logit(e^x) - logit(e^y)).

    At probability one the logit's derivative is infinite and the sigmoid 0; the rule below returns the limit of their
    product.
    """
    against = (y - _log1mexp(y)) - (x - _log1mexp(x))
    return jax.nn.softplus(jnp.where((x == y) & (x <= 0), 0, against))


@_odds_ratio_loss.defjvp
def _odds_ratio_loss_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    x, y = primals
    p, q = _log1mexp(x), _log1mexp(y)
    total = jnp.logaddexp(x + q, y + p)  # log(p_w (1 - p_l) + p_l (1 - p_w))
    same, certain = (x == y) & (x <= 0), (x == 0) & (y == 0)
    half = jnp.where(certain, 0, jnp.exp(-jnp.where(certain, 0, p)) / 2)
    by_x = jnp.where(same, -half, -jnp.exp(y - total))
    by_y = jnp.where(same, half, jnp.exp(y + p - total - q))
    return _odds_ratio_loss(x, y), by_x * tangents[0] + by_y * tangents[1]


@loss(beta=positive, gamma=finite, label_smoothing=probability_or_off)
def simpo(
    chosen: jax.Array,
    rejected: jax.Array,
    *,
    beta: float | jax.Array = 2.0,
    gamma: float | jax.Array = 0.5,
    label_smoothing: float | jax.Array = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Simple preference optimisation (SimPO): length-normalised log-probabilities as rewards, with a margin.

    $$-\log \sigma \left( \frac{\beta}{|y_w|} \log \pi(y_w) - \frac{\beta}{|y_l|} \log \pi(y_l) - \gamma \right)$$

    Args:
        chosen: [...], the log-probability of the chosen answer averaged over its tokens (`sequence_log_probs` with
            `average=True`), in nats.
        rejected: [...], log-probability of the rejected answer.
        beta: $\beta$, scale of the rewards.
        gamma: $\gamma$, target margin of the rewards.
        label_smoothing: The assumed fraction of flipped preferences.
        where: [...], boolean; False excludes the pair.

    Returns:
        [...], nats per pair.

    Example:
        Rewards that differ by log 3 + gamma.

        >>> chosen = (jnp.log(jnp.array([3.0])) + 0.5) / 2
        >>> print(simpo(chosen, jnp.zeros(1)).round(4))
        [0.2877]

    Conventions:
        The authors' code has gamma / beta, with defaults 2.0 and 0.25, equal to these. TRL's `simpo_gamma` of 0.5 is
        gamma, but its beta is 0.1 by default.

    References:
        Meng et al. 2024, arXiv:2405.14734.
    """
    where, (x, y) = prepare(where, chosen=chosen, rejected=rejected)
    margin = multiplied(x - y, as_scalar(beta, x.dtype)) - as_scalar(gamma, x.dtype)
    return zero_masked(where, preference_nll(margin, label_smoothing))


@loss(beta=positive, label_smoothing=probability_or_off, nll_weight=non_negative_or_off)
def cpo(
    chosen: jax.Array,
    rejected: jax.Array,
    *,
    beta: float | jax.Array = 0.1,
    label_smoothing: float | jax.Array = 0.0,
    nll_weight: float | jax.Array = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Contrastive preference optimisation (CPO): DPO with a uniform reference, plus the chosen answer's likelihood.

    $$-\log \sigma(\beta \log \pi(y_w) - \beta \log \pi(y_l)) - \lambda \log \pi(y_w)$$

    Args:
        chosen: [...], log-probability of the chosen answer, summed over its tokens, in nats.
        rejected: [...], log-probability of the rejected answer.
        beta: $\beta$.
        label_smoothing: The assumed fraction of flipped preferences.
        nll_weight: $\lambda$; 0 omits the second term.
        where: [...], boolean; False excludes the pair.

    Returns:
        [...], nats per pair.

    Example:
        Equal answers of probability 1/2: log 2 + log 2.

        >>> even = jnp.log(jnp.array([0.5]))
        >>> print(cpo(even, even).round(4))
        [1.3863]

    Conventions:
        The paper's second term is a sum over the answer's tokens. The authors' code and TRL average over all tokens of
        the batch, including the prompt, times `cpo_alpha`: `nll_weight=0` and a `next_token` term.

    References:
        Xu et al. 2024, arXiv:2401.08417.
    """
    where, (x, y) = prepare(where, chosen=chosen, rejected=rejected)
    values = preference_nll(multiplied(x - y, as_scalar(beta, x.dtype)), label_smoothing)
    if nll_weight is not None:
        values -= as_scalar(nll_weight, x.dtype) * x
    return zero_masked(where, values)


@loss(margin=non_negative)
def slic_hinge(
    chosen: jax.Array, rejected: jax.Array, *, margin: float | jax.Array = 1.0, where: jax.Array | None = None
) -> jax.Array:
    r"""Sequence likelihood calibration (SLiC): a hinge on the difference of log-probabilities.

    $$\max(0, \delta - \log \pi(y_w) + \log \pi(y_l))$$

    Args:
        chosen: [...], log-probability of the chosen answer, summed over its tokens, in nats.
        rejected: [...], log-probability of the rejected answer.
        margin: $\delta$, in nats.
        where: [...], boolean; False excludes the pair.

    Returns:
        [...], nats per pair; 0 with gradient 0 where the margin holds.

    Example:
        >>> print(slic_hinge(jnp.array([-1.0, -1.0]), jnp.array([-1.5, -9.0])))
        [0.5 0. ]

    Conventions:
        The paper's regulariser, the likelihood of a fine-tuning target, is a separate `next_token` term. TRL's `hinge`
        is RSO's (Liu et al. 2023, arXiv:2309.06657), on `beta * (policy - reference)` with margin 1: pass those as the
        log-probabilities.

    References:
        Zhao et al. 2023, arXiv:2305.10425.
    """
    where, (x, y) = prepare(where, chosen=chosen, rejected=rejected)
    return zero_masked(where, jax.nn.relu(as_scalar(margin, x.dtype) - (x - y)))
