"""Losses that predict one representation from another: BYOL, SimSiam, data2vec."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    as_scalar,
    loss,
    positive,
    prepare,
    zero_masked,
)
from lossfns._numerics import magnitude, unit_vectors


def half_squared_chord(a: jax.Array, b: jax.Array) -> jax.Array:
    """1 - cos of rows, accurate where they nearly agree; 1 with a zero row."""
    u, v = unit_vectors(a), unit_vectors(b)
    # |u - v|^2 / 2 is 1 - cos for unit vectors, without the cancellation. A zero row has cosine 0 with everything.
    zeros = [jnp.all(x == 0, axis=-1).astype(u.dtype) for x in (u, v)]
    return (jnp.sum(jnp.square(u - v), axis=-1) + zeros[0] + zeros[1]) / 2


def _pair(
    predictions: jax.Array, targets: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Checked and sanitised rows; the targets are constants."""
    where, (x, y) = prepare(where, row_axes=1, predictions=predictions, targets=targets)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"predictions must have a last axis of at least one feature, got shape {x.shape}")
    return x, jax.lax.stop_gradient(y), where


@loss()
def byol(predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Squared distance between normalised predictions and normalised targets (BYOL), $2 - 2 \cos(q, z)$.

    Args:
        predictions: [..., D], the online network's predictions $q$; normalised here.
        targets: [..., D], the target network's projections $z$ of the other view; normalised here, constants.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], 0 to 4. A zero vector has cosine 0.

    Example:
        Parallel, orthogonal and opposite vectors.

        >>> predictions = jnp.array([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
        >>> print(byol(predictions, jnp.array([[1.0, 0.0]] * 3)))
        [0. 2. 4.]

    Conventions:
        One direction only; the paper adds `byol(prediction_b, target_a)`. Targets get no gradient, as in the paper, so
        they may come from the online network: SimSiam's loss, doubled and shifted by 2.

    References:
        Grill et al. 2020, arXiv:2006.07733.
    """
    predictions, targets, where = _pair(predictions, targets, where)
    return zero_masked(where, 2 * half_squared_chord(predictions, targets))


@loss()
def simsiam(predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Negative cosine between predictions and constant targets (SimSiam), $-\cos(p, \mathrm{stopgrad}(z))$.

    Args:
        predictions: [..., D], the predictor's outputs $p$ of one view; normalised here.
        targets: [..., D], the projections $z$ of the other view; normalised here, constants.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], -1 to 1. A zero vector has cosine 0.

    Example:
        >>> predictions = jnp.array([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
        >>> print(simsiam(predictions, jnp.array([[1.0, 0.0]] * 3)))
        [-1.  0.  1.]

    Conventions:
        The stop-gradient is inside. The paper averages both directions:
        `(simsiam(p_a, z_b) + simsiam(p_b, z_a)) / 2`.

    References:
        Chen and He 2020, arXiv:2011.10566.
    """
    predictions, targets, where = _pair(predictions, targets, where)
    return zero_masked(where, half_squared_chord(predictions, targets) - 1)


@loss(beta=positive)
def data2vec(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    beta: float | jax.Array = 2.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Smooth L1 distance to contextual targets (data2vec), averaged over features.

    $$\frac{1}{D} \sum_d \begin{cases} e_d^2 / (2 \beta) & |e_d| \le \beta \\ |e_d| - \beta / 2 & |e_d| > \beta
    \end{cases}, \quad e = f - y$$

    Args:
        predictions: [..., D], the student's predictions $f$ at each position.
        targets: [..., D], constants: the teacher's representations $y$ at the same positions, the mean of its top K
            blocks' normalised outputs.
        beta: The error at which the square becomes linear.
        where: [...], boolean: the masked positions, to be predicted.

    Returns:
        [...], one value per position; 0 where `where` is False.

    Example:
        Errors of 1 and 4 at beta 2: 1/4 and 4 - 1, with mean 1.625.

        >>> print(data2vec(jnp.array([[1.0, -4.0]]), jnp.zeros((1, 2)), beta=2.0))
        [1.625]

    Conventions:
        - The default of beta is the paper's for images; it is 4 for text, and speech uses $e^2$, without the half.
        - The authors' fairseq code sums over features and divides by the square root of D: the square root of D times
          this mean.

    References:
        Baevski et al. 2022, arXiv:2202.03555.
    """
    predictions, targets, where = _pair(predictions, targets, where)
    beta = as_scalar(beta, predictions.dtype)
    error = magnitude(predictions - targets)
    quadratic = jnp.minimum(error, beta)
    return zero_masked(where, jnp.mean(quadratic * (error - quadratic / 2) / beta, axis=-1))
