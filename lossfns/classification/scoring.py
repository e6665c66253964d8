"""Brier score and sparsemax loss."""

import jax
import jax.numpy as jnp

from lossfns._contract import accumulation_dtype, check_labels, keep_rows, loss, nan_where_invalid, zero_masked
from lossfns._numerics import at_label, log_probabilities, row_shift


@loss()
def brier(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Brier score of a softmax with integer labels, $\sum_k (p_k - [k = y])^2$.

    Args:
        logits: [..., V], unnormalised log-probabilities in nats; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], between 0 and 2.

    Example:
        Two classes at equal odds: twice a quarter.

        >>> print(brier(jnp.zeros((1, 2)), jnp.array([0])))
        [0.5]

    Conventions:
        The sum over all classes, as Brier defined it. The usual score of binary forecasts counts one class and is half
        of it; some code averages over the classes.

    References:
        Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    labels, in_range, where = check_labels(logits, labels, where)
    p = jnp.exp(log_probabilities(keep_rows(where, logits)))
    values = jnp.sum(jnp.square(p - at_label(labels, p.shape[-1])), axis=-1)
    return zero_masked(where, nan_where_invalid(in_range, values))


@loss()
def sparsemax(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Sparsemax loss: cross-entropy's counterpart for the Euclidean projection of logits onto the simplex.

    $$-x_y + \tfrac12 \sum_{k \in S} (x_k^2 - \tau^2) + \tfrac12$$

    with $p_k = \max(0, x_k - \tau)$, S the classes with $p_k > 0$ and $\tau$ such that p sums to one. The gradient is p
    minus one at the label, exactly 0 once the label leads by 1.

    Args:
        logits: [..., V], scores; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1.
        where: [...], boolean; False excludes the row.

    Returns:
        [...]. A label of a masked class gives inf.

    Example:
        Two classes at equal scores have p = 1/2 each, and the loss is 1/4; a lead of 1 costs nothing.

        >>> print(sparsemax(jnp.array([[0.0, 0.0], [1.0, 0.0]]), jnp.array([0, 0])))
        [0.25 0.  ]

    Conventions:
        Optax's `multiclass_sparsemax_loss` is the same; its `sparsemax_loss` is for two classes.

    References:
        Martins and Astudillo 2016, arXiv:1602.02068.
    """
    labels, in_range, where = check_labels(logits, labels, where)
    x = keep_rows(where, logits).astype(accumulation_dtype(logits))
    top, shift = row_shift(x)
    finite = ~jnp.isinf(top)
    label = jnp.sum(jnp.where(at_label(labels, x.shape[-1]), x, 0), axis=-1)
    x = jnp.where(finite, x, 0) - shift
    supported = jnp.where(x > _threshold(x), x, 0)
    in_support = x > _threshold(x)
    count = jnp.sum(in_support, axis=-1, dtype=x.dtype)
    tau = (jnp.sum(supported, axis=-1) - 1) / count
    squares = jnp.sum(jnp.square(supported), axis=-1) - count * jnp.square(tau)
    values = (squares + 1) / 2 - (jnp.where(finite[..., 0], label, 0) - shift[..., 0])
    values = jnp.where(finite[..., 0], values, jnp.where(label == jnp.inf, 0, jnp.inf))
    return zero_masked(where, nan_where_invalid(in_range, values))


def _threshold(x: jax.Array) -> jax.Array:
    """[..., 1], tau of the projection of rows with maximum 0; a constant."""
    # Logits 1 below the maximum are never in the support; clipped there, the running sums stay small.
    ordered = jnp.sort(jax.lax.stop_gradient(jnp.maximum(x, -1)), axis=-1, descending=True)
    rank = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    excess = jnp.cumsum(ordered, axis=-1) - 1
    size = jnp.sum(rank * ordered > excess, axis=-1, keepdims=True)
    return jnp.take_along_axis(excess, jnp.maximum(size - 1, 0), axis=-1) / jnp.maximum(size, 1).astype(x.dtype)
