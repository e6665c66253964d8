"""Errors of logarithms and of directions."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    loss,
    prepare,
    zero_masked,
)
from lossfns._numerics import unit_vectors


@loss()
def log_squared_error(predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Squared difference of logarithms, $(\log(1 + \hat y) - \log(1 + y))^2$.

    Args:
        predictions: [...], floating, at least -1.
        targets: [...], the same shape, at least -1, any real dtype.
        where: [...], boolean; False deletes the entry.

    Returns:
        [...]. One of the two at -1 gives inf; a prediction or target below -1 has no logarithm and gives NaN.

    Example:
        1 + 1 against 1 + 3 is half, and log(2) squared is 0.48.

        >>> print(log_squared_error(jnp.array([1.0, 3.0]), jnp.array([3.0, 3.0])).round(2))
        [0.48 0.  ]

    Conventions:
        scikit-learn's `mean_squared_log_error` and Keras's are the mean of this; Keras first raises negative numbers
        to 1e-7, which hides them and their gradients.
    """
    _, (predictions, targets) = prepare(where, others="real", predictions=predictions, targets=targets)
    # The logarithm of a ratio, because the difference of logarithms has no digits left where the two are close; of the
    # larger to the smaller, because log(1 + r) has none left near r = -1.
    smaller = jnp.where(predictions < targets, predictions, targets)
    ratio = jnp.abs(predictions - targets) / (1 + smaller)
    defined = (predictions >= -1) & (targets >= -1)
    # At -1 the square of the logarithm is infinite, as the ratio is, and its gradient would be infinity times 0.
    lost = ratio == jnp.inf
    squares = jnp.where(lost, ratio, jnp.square(jnp.log1p(jnp.where(lost, 0, ratio))))
    return zero_masked(where, jnp.where(defined, squares, jnp.nan))


@loss()
def cosine_distance(predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Cosine distance of two vectors, $1 - \frac{\hat y \cdot y}{\lVert \hat y \rVert \lVert y \rVert}$.

    Args:
        predictions: [..., D], floating.
        targets: [..., D], the same shape, any real dtype.
        where: [...], boolean; False deletes the row.

    Returns:
        [...], from 0 to 2. The cosine with a zero vector is 0, its distance 1.

    Example:
        The same direction, a right angle, and the opposite direction.

        >>> vectors = jnp.array([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
        >>> print(cosine_distance(vectors, jnp.array([[1.0, 0.0]] * 3)))
        [0. 1. 2.]

    Conventions:
        torch's `cosine_embedding_loss` of positive pairs and Optax's `cosine_distance` are this, with an epsilon in the
        norms; Keras's `CosineSimilarity` is this minus 1; BYOL's loss is twice this.
    """
    where, pair = prepare(where, row_axes=1, others="real", predictions=predictions, targets=targets)
    if predictions.ndim == 0:
        raise ValueError("predictions must have a last axis of features, got a scalar")
    u, v = map(unit_vectors, pair)
    # Half the squared distance keeps the digits of small angles; a zero vector lacks the half of its own square.
    lacking = [jnp.where(jnp.all(x == 0, axis=-1), 0.5, 0).astype(x.dtype) for x in (u, v)]
    return zero_masked(where, jnp.sum(jnp.square(u - v), axis=-1) / 2 + sum(lacking))
