"""Losses of real-valued predictions, one value for each entry."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    check_array,
    check_shape,
    check_where,
    hyper,
    keep_rows,
    loss,
    positive,
    zero_masked,
)
from lossfns._numerics import magnitude


def _errors(predictions: jax.Array, targets: jax.Array, where: jax.Array | None) -> jax.Array:
    """Return predictions - targets in float32 or wider, 0 at masked places."""
    check_array("predictions", predictions)
    check_array("targets", targets, "real")
    check_shape("targets", targets, predictions.shape, "of predictions")
    check_where(where, predictions.shape)
    dtype = accumulation_dtype(predictions, targets)
    return keep_rows(where, predictions).astype(dtype) - keep_rows(where, targets).astype(dtype)


@loss()
def squared_error(predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Squared error, $(\hat y - y)^2$.

    Args:
        predictions: [...], floating.
        targets: [...], the same shape, any real dtype. Nothing is broadcast.
        where: [...], boolean; False deletes the entry.

    Returns:
        [...], squared units of the target, float32 or wider; 0 at masked entries.

    Raises:
        ValueError: If the shapes differ.
        TypeError: If predictions are not floating.

    Example:
        >>> print(squared_error(jnp.array([1.0, 5.0]), jnp.array([3.0, 5.0])))
        [4. 0.]

    Conventions:
        torch's `mse_loss` is this; Optax's `l2_loss` is half of it.
    """
    return zero_masked(where, jnp.square(_errors(predictions, targets, where)))


@loss()
def absolute_error(predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Absolute error, $|\hat y - y|$, with gradient 0 where the two are equal.

    Args:
        predictions: [...], floating.
        targets: [...], the same shape, any real dtype. Nothing is broadcast.
        where: [...], boolean; False deletes the entry.

    Returns:
        [...], units of the target, float32 or wider; 0 at masked entries.

    Raises:
        ValueError: If the shapes differ.
        TypeError: If predictions are not floating.

    Example:
        >>> print(absolute_error(jnp.array([1.0, 5.0]), jnp.array([3.0, 5.0])))
        [2. 0.]
    """
    return zero_masked(where, magnitude(_errors(predictions, targets, where)))


@loss(delta=positive)
def huber(
    predictions: jax.Array, targets: jax.Array, *, delta: float | jax.Array = 1.0, where: jax.Array | None = None
) -> jax.Array:
    r"""Huber's loss: half the squared error up to $\delta$, linear beyond.

    $$\tfrac12 e^2 \ \text{if}\ |e| \le \delta, \quad \delta(|e| - \tfrac12\delta)\ \text{otherwise}$$

    Args:
        predictions: [...], floating.
        targets: [...], the same shape, any real dtype. Nothing is broadcast.
        delta: Error, in units of the target, at which the loss turns linear.
        where: [...], boolean; False deletes the entry.

    Returns:
        [...], squared units of the target, float32 or wider; 0 at masked entries.

    Raises:
        ValueError: If the shapes differ or delta is not positive.
        TypeError: If predictions are not floating.

    Example:
        At delta 1: half of 0.5 squared, and 3 less one half.

        >>> print(huber(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0])))
        [0.125 2.5  ]

    Conventions:
        torch's `huber_loss` and Optax's are this; torch's `smooth_l1_loss` with `beta` is this divided by delta.

    References:
        Huber 1964, doi:10.1214/aoms/1177703732.
    """
    size = jnp.abs(_errors(predictions, targets, where))
    delta = hyper(delta, size.dtype)
    # The quadratic part is cut before squaring: squaring first would overflow on the branch that is not taken.
    near = jnp.minimum(size, delta)
    return zero_masked(where, near * near / 2 + delta * (size - near))
