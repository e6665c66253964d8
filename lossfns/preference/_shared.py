"""Log-ratios, labels as signs, and the negative log-likelihood of a preference."""

from typing import Any

import jax
import jax.numpy as jnp

from lossfns._contract import Number, check_array, check_shape, prepare

below_half = Number("at least 0 and below 1/2", lambda v: (v >= 0) & (v < 0.5))


def log_ratios(
    policy_chosen: jax.Array,
    policy_rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    where: jax.Array | None,
) -> tuple[jax.Array | None, jax.Array, jax.Array]:
    """Returns the mask and log(policy / reference) of the chosen and of the rejected answer."""
    where, (chosen, rejected, base_chosen, base_rejected) = prepare(
        where,
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
    )
    # Policy minus reference first: they are close, so each difference is nearly exact.
    return where, chosen - base_chosen, rejected - base_rejected


def signs(name: str, answer: jax.Array, shape: tuple[int, ...], of: str, dtype: jnp.dtype) -> jax.Array:
    """1 for True or 1, -1 for False or 0, NaN for any other integer."""
    check_shape(name, check_array(name, answer, "integer or boolean"), shape, of)
    answer = answer.astype(jnp.int32)
    return jnp.where(answer == 1, 1, jnp.where(answer == 0, -1, jnp.nan)).astype(dtype)


def preference_nll(margin: jax.Array, label_smoothing: Any) -> jax.Array:
    """-log sigmoid(margin), or its cross-entropy with a smoothed preference of 1 - epsilon."""
    if label_smoothing is None:
        return jax.nn.softplus(-margin)
    epsilon = jnp.asarray(label_smoothing).astype(margin.dtype)
    return (1 - epsilon) * jax.nn.softplus(-margin) + epsilon * jax.nn.softplus(margin)
