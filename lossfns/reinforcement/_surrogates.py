"""Surrogates of the policy losses, on unchecked arrays of one dtype."""

import jax
import jax.numpy as jnp

from lossfns._contract import Number

ddof_number = Number("0 or 1", lambda v: (v == 0) | (v == 1))
clip_share = Number("at least 0 and at most 1", lambda v: (v >= 0) & (v <= 1))


def clipped(
    log_ratio: jax.Array, advantages: jax.Array, low: jax.Array, high: jax.Array, dual: jax.Array | None
) -> jax.Array:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A), for A < 0 at most -dual A.

    The sign of A alone decides which term is smaller, so the log-ratio is compared before anything can overflow: a
    clipped ratio of e^100 has gradient 0, not 0 times infinity.
    """
    good = advantages >= 0
    too_high, too_low = good & (log_ratio > jnp.log1p(high)), ~good & (log_ratio < jnp.log1p(-low))
    bound = jnp.where(too_high, 1 + high, 1 - low)
    held = too_high | too_low
    if dual is not None:
        too_bad = ~good & (log_ratio > jnp.log(dual))
        bound, held = jnp.where(too_bad, dual, bound), held | too_bad
    return -advantages * jnp.where(held, bound, jnp.exp(jnp.where(held, 0, log_ratio)))


def weighted(
    log_probs: jax.Array, log_ratio: jax.Array, advantages: jax.Array, low: jax.Array, high: jax.Array
) -> jax.Array:
    """-A log pi times the clipped ratio as a constant weight."""
    lower, upper = jnp.log1p(-low), jnp.log1p(high)
    inside = jnp.exp(jnp.clip(log_ratio, lower, upper))
    weight = jnp.where(log_ratio > upper, 1 + high, jnp.where(log_ratio < lower, 1 - low, inside))
    return scored(log_probs, jax.lax.stop_gradient(weight) * advantages)


def scored(log_probs: jax.Array, advantages: jax.Array) -> jax.Array:
    """-A log pi; 0 where A is 0, even for an impossible action."""
    return -advantages * jnp.where(advantages == 0, 0, log_probs)
