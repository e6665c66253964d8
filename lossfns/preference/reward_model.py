"""Losses of reward models."""

import jax
import jax.numpy as jnp

from lossfns._contract import as_scalar, entries, finite, loss, non_negative_or_off, prepare, zero_masked


@loss(margin=finite.each, centring=non_negative_or_off)
def bradley_terry(
    chosen: jax.Array,
    rejected: jax.Array,
    *,
    margin: float | jax.Array = 0.0,
    centring: float | jax.Array = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Bradley-Terry loss of a reward model.

    $$-\log \sigma(r_w - r_l - m) + \kappa (r_w + r_l)^2$$

    Args:
        chosen: [...], reward $r_w$ of the chosen answer.
        rejected: [...], reward $r_l$ of the rejected answer.
        margin: $m$, the required lead of the chosen answer: a scalar, or [...] per pair (larger for confident raters).
        centring: $\kappa$, pulls the sum of both rewards to 0, which the preference leaves undetermined; 0.01 in the
            paper.
        where: [...], boolean; False excludes the pair.

    Returns:
        [...], nats per pair.

    Example:
        Odds of 3 to 1, without a margin and with one that makes them even.

        >>> chosen, rejected = jnp.log(jnp.array([3.0, 3.0])), jnp.zeros(2)
        >>> print(bradley_terry(chosen, rejected, margin=jnp.array([0.0, jnp.log(3.0)])).round(4))
        [0.2877 0.6931]

    Conventions:
        As in TRL: centring squares the sum, not each reward.

    References:
        Bradley and Terry 1952, doi:10.1093/biomet/39.3-4.324. Touvron et al. 2023, arXiv:2307.09288 (margin).
        Eisenstein et al. 2023, arXiv:2312.09244 (centring).
    """
    where, (x, y) = prepare(where, chosen=chosen, rejected=rejected)
    if jnp.shape(margin) not in ((), x.shape):
        raise ValueError(f"margin must be a scalar or have the shape {x.shape} of chosen, got {jnp.shape(margin)}")
    gap = entries("margin", margin, finite, x, where)
    values = jax.nn.softplus(gap - (x - y))
    if centring is not None:
        values += as_scalar(centring, x.dtype) * jnp.square(x + y)
    return zero_masked(where, values)
