"""Weighted sums and means, optionally over a mapped device axis: the only place that averages."""

from typing import Any

import jax
import jax.numpy as jnp

from lossfns._contract import AxisName, accumulation_dtype, check_array, loss


def _sums(values: jax.Array, weights: Any, axis_name: AxisName) -> tuple[jax.Array, jax.Array]:
    check_array("values", values, "real")
    dtype = accumulation_dtype(values)
    if weights is None:
        total = jnp.sum(values, dtype=dtype), jnp.asarray(values.size, dtype)
    else:
        check_array("weights", weights, "real")
        fits = all(w in (1, v) for w, v in zip(weights.shape, values.shape, strict=False))
        if weights.ndim not in (0, values.ndim) or not fits:
            raise ValueError(
                f"weights must be a scalar or have the rank of values and broadcast to them, "
                f"got weights {weights.shape} for values {values.shape}"
            )
        dtype = accumulation_dtype(values, weights)
        weights = weights.astype(dtype)
        # The minimum has its own reduction: a condition in the sums would materialise another array of their size.
        sound = jnp.where(jnp.min(jax.lax.stop_gradient(weights), initial=0) >= 0, 1, jnp.nan).astype(dtype)
        weights = jnp.broadcast_to(weights, values.shape)
        # Values of weight 0 are replaced before the product: 0 * NaN is NaN, in the gradient too.
        weighed = jnp.sum(jnp.where(weights == 0, 0, values.astype(dtype)) * weights)
        total = sound * weighed, sound * jnp.sum(weights)
    return total if axis_name is None else jax.lax.psum(total, axis_name)


@loss(static=("axis_name",))
def weighted_sum(
    values: jax.Array, weights: jax.Array | float | None = None, *, axis_name: AxisName = None
) -> jax.Array:
    r"""Weighted sum over all entries, $\sum_i w_i v_i$.

    Args:
        values: [...], any real dtype; summed in float32 or wider.
        weights: A scalar, or an array of the same rank that broadcasts to `values`; boolean or real, not negative;
            None for ones. A value of weight 0 never counts, not even NaN or infinity, and gets no gradient.
        axis_name: Name of a mapped axis (`shard_map`, `pmap`, `vmap`) to sum over as well.

    Returns:
        A scalar; NaN if a weight is negative.

    Example:
        >>> float(weighted_sum(jnp.array([1.0, 2.0, jnp.nan]), jnp.array([3, 0.5, 0])))
        4.0
    """
    return _sums(values, weights, axis_name)[0]


@loss(static=("axis_name",))
def weighted_mean(
    values: jax.Array, weights: jax.Array | float | None = None, *, axis_name: AxisName = None
) -> jax.Array:
    r"""Weighted mean over all entries, $\sum_i w_i v_i / \sum_i w_i$; 0 if there is nothing to average.

    Both sums are complete before the one division, so this is no mean of means: 10 tokens at loss 4 and 1,000 tokens at
    loss 1 have the mean 1.0297, not 2.5.

    Args:
        values: [...], any real dtype; summed in float32 or wider.
        weights: As for `weighted_sum`.
        axis_name: Name of a mapped axis (`shard_map`, `pmap`, `vmap`) to average over as well, with one denominator.

    Returns:
        A scalar; NaN if a weight is negative.

    Example:
        >>> float(weighted_mean(jnp.array([1.0, 7.0]), jnp.array([True, False])))
        1.0
        >>> float(weighted_mean(jnp.array([4.0, 1.0]), jnp.array([0.0, 0.0])))
        0.0
    """
    total, weight = _sums(values, weights, axis_name)
    return jnp.where(weight == 0, 0, total / jnp.where(weight == 0, 1, weight))
