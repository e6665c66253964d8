"""Losses with separate terms for the chosen and the rejected answer: NCA, SPPO, APO."""

import jax
import jax.numpy as jnp

from lossfns._contract import as_scalar, check_array, check_shape, keep_rows, loss, one_of, positive, zero_masked
from lossfns._numerics import multiplied
from lossfns.preference._shared import log_ratios


@loss(beta=positive)
def nca(
    policy_chosen: jax.Array,
    policy_rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    beta: float | jax.Array = 0.1,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Noise-contrastive alignment (NCA) for preference pairs, which keeps the chosen answer likely.

    $$-\log \sigma(r_w) - \tfrac12 \log \sigma(-r_w) - \tfrac12 \log \sigma(-r_l), \quad
    r = \beta \log \frac{\pi(y)}{\pi_0(y)}$$

    Args:
        policy_chosen: [...], log-probability of the chosen answer, summed over its tokens, in nats.
        policy_rejected: [...], log-probability of the rejected answer.
        reference_chosen: [...], log-probability of the chosen answer under the reference policy $\pi_0$.
        reference_rejected: [...], log-probability of the rejected answer under it.
        beta: $\beta$, strength of the regularisation towards the reference.
        where: [...], boolean; False excludes the pair.

    Returns:
        [...], nats per pair.

    Example:
        Where policy and reference agree, each sigmoid is 1/2: 2 log 2.

        >>> zero = jnp.zeros(1)
        >>> print(nca(zero, zero, zero, zero).round(4))
        [1.3863]

    Conventions:
        TRL's `nca_pair` and the authors' code for pairs are the same; the authors' loss for explicit rewards differs.

    References:
        Chen et al. 2024, arXiv:2402.05369.
    """
    where, chosen, rejected = log_ratios(policy_chosen, policy_rejected, reference_chosen, reference_rejected, where)
    beta = as_scalar(beta, chosen.dtype)
    chosen, rejected = multiplied(chosen, beta), multiplied(rejected, beta)
    noise = jax.nn.softplus(chosen) + jax.nn.softplus(rejected)
    return zero_masked(where, jax.nn.softplus(-chosen) + noise / 2)


@loss(beta=positive)
def sppo(
    policy_chosen: jax.Array,
    policy_rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    beta: float | jax.Array = 0.001,
    chosen_win_rate: jax.Array | None = None,
    rejected_win_rate: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Self-play preference optimisation (SPPO): regression of log-ratios on win rates against the policy.

    $$\tfrac12 \sum_{y \in \{y_w, y_l\}} \left( \log \frac{\pi(y)}{\pi_0(y)} -
    \frac1\beta \left( P(y) - \tfrac12 \right) \right)^2$$

    Args:
        policy_chosen: [...], log-probability of the chosen answer, summed over its tokens, in nats.
        policy_rejected: [...], log-probability of the rejected answer.
        reference_chosen: [...], log-probability of the chosen answer under the reference $\pi_0$, the last iteration's
            policy.
        reference_rejected: [...], log-probability of the rejected answer under it.
        beta: $\beta$, one over the paper's $\eta$.
        chosen_win_rate: [...], $P(y_w)$, probability that the chosen answer beats one of the policy's; None for 1
            ("hard").
        rejected_win_rate: [...], $P(y_l)$; None for 0.
        where: [...], boolean; False excludes the pair.

    Returns:
        [...], squared nats per pair. A win rate outside 0 .. 1 gives NaN.

    Example:
        At beta = 1/2 the targets are 1 and -1; the log-ratios are 3 and 0.

        >>> zero = jnp.zeros(1)
        >>> print(sppo(jnp.array([3.0]), zero, zero, zero, beta=0.5))
        [2.5]

    Conventions:
        Half the sum of both squares, as in the authors' code, so that the mean over pairs is the mean over answers;
        TRL's `sppo_hard` is twice this. The paper's eta is 1e3.

    References:
        Wu et al. 2024, arXiv:2405.00675.
    """
    where, chosen, rejected = log_ratios(policy_chosen, policy_rejected, reference_chosen, reference_rejected, where)
    eta = 1 / as_scalar(beta, chosen.dtype)
    chosen -= eta * _excess("chosen_win_rate", chosen_win_rate, 1.0, chosen, where)
    rejected -= eta * _excess("rejected_win_rate", rejected_win_rate, 0.0, rejected, where)
    return zero_masked(where, (jnp.square(chosen) + jnp.square(rejected)) / 2)


def _excess(
    name: str, rate: jax.Array | None, default: float, like: jax.Array, where: jax.Array | None
) -> jax.Array | float:
    """A win rate minus 1/2."""
    if rate is None:
        return default - 0.5
    check_shape(name, check_array(name, rate), like.shape, "of policy_chosen")
    rate = keep_rows(where, rate).astype(like.dtype)
    return jnp.where((rate >= 0) & (rate <= 1), rate - 0.5, jnp.nan)


@loss(static=("form",), beta=positive, form=one_of("zero", "down"))
def apo(
    policy_chosen: jax.Array,
    policy_rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    beta: float | jax.Array = 0.1,
    form: str = "zero",
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Anchored preference optimisation (APO): sets the direction in which each answer's probability moves.

    "zero" makes the chosen answer more likely than under the reference and the rejected one less; "down" makes both
    less likely, the rejected one more so:

    $$(1 - \sigma(r_w)) + \sigma(r_l) \qquad \sigma(r_w) + (1 - \sigma(r_w - r_l)), \quad
    r = \beta \log \frac{\pi(y)}{\pi_0(y)}$$

    Args:
        policy_chosen: [...], log-probability of the chosen answer, summed over its tokens, in nats.
        policy_rejected: [...], log-probability of the rejected answer.
        reference_chosen: [...], log-probability of the chosen answer under the reference policy $\pi_0$.
        reference_rejected: [...], log-probability of the rejected answer under it.
        beta: $\beta$, strength of the regularisation towards the reference.
        form: "zero" where the chosen answers are better than the policy's own, "down" where they are worse.
        where: [...], boolean; False excludes the pair.

    Returns:
        [...], between 0 and 2.

    Example:
        Odds of 3 to 1 for the chosen answer, equal odds for the rejected: 1/4 + 1/2 and 3/4 + 1/4.

        >>> moved, zero = jnp.log(jnp.array([3.0])), jnp.zeros(1)
        >>> print(apo(moved, zero, zero, zero, beta=1.0), apo(moved, zero, zero, zero, beta=1.0, form="down"))
        [0.75] [1.]

    Conventions:
        The constants are TRL's and keep the values non-negative; without them the loss is lower by 1 with the same
        gradient.

    References:
        D'Oosterlinck et al. 2024, arXiv:2408.06266, equations 7 and 8.
    """
    where, chosen, rejected = log_ratios(policy_chosen, policy_rejected, reference_chosen, reference_rejected, where)
    beta = as_scalar(beta, chosen.dtype)
    chosen, rejected = multiplied(chosen, beta), multiplied(rejected, beta)
    if form == "zero":
        values = jax.nn.sigmoid(-chosen) + jax.nn.sigmoid(rejected)
    else:
        values = jax.nn.sigmoid(chosen) + jax.nn.sigmoid(rejected - chosen)
    return zero_masked(where, values)
