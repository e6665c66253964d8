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
        where: [...], boolean; False excludes the entry.

    Returns:
        [...]. Exactly one of the two at -1 gives inf; a prediction or target below -1 gives NaN.

    Example:
        (1 + 1) / (1 + 3) is a half, and log(2) squared is 0.48.

        >>> print(log_squared_error(jnp.array([1.0, 3.0]), jnp.array([3.0, 3.0])).round(2))
        [0.48 0.  ]

    Conventions:
        scikit-learn's `mean_squared_log_error` and Keras's are the mean of this; Keras first clamps negative numbers at
        1e-7, which hides them and their gradients.
    """
    _, (predictions, targets) = prepare(where, others="real", predictions=predictions, targets=targets)
    # The logarithm of a ratio, since the difference of logarithms cancels if the two are close; of larger to smaller,
    # since log(1 + r) is inaccurate near r = -1.
    smaller = jnp.where(predictions < targets, predictions, targets)
    ratio = jnp.abs(predictions - targets) / (1 + smaller)
    defined = (predictions >= -1) & (targets >= -1)
    # At -1 both the ratio and the squared logarithm are infinite, and the gradient would be infinity times 0.
    lost = ratio == jnp.inf
    squares = jnp.where(lost, ratio, jnp.square(jnp.log1p(jnp.where(lost, 0, ratio))))
    return zero_masked(where, jnp.where(defined, squares, jnp.nan))


@loss()
def cosine_distance(predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Cosine distance of two vectors, $1 - \frac{\hat y \cdot y}{\lVert \hat y \rVert \lVert y \rVert}$.

    Args:
        predictions: [..., D], floating.
        targets: [..., D], the same shape, any real dtype.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], from 0 to 2. The cosine with a zero vector is 0, its distance 1.

    Example:
        Parallel, orthogonal and opposite vectors.

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
    # Half the squared distance of unit vectors is accurate for small angles; for a zero vector 1/2 is missing.
    lacking = [jnp.where(jnp.all(x == 0, axis=-1), 0.5, 0).astype(x.dtype) for x in (u, v)]
    return zero_masked(where, jnp.sum(jnp.square(u - v), axis=-1) / 2 + sum(lacking))
