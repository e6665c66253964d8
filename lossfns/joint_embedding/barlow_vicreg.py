"""Losses of two views that decorrelate features over the batch: Barlow Twins, VICReg, W-MSE."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    AxisName,
    as_scalar,
    check_rank,
    flag,
    loss,
    non_negative,
    prepare,
    probability,
    zero_masked,
)
from lossfns._global_batch import broadcast_to_rows, centered, count_present, cross_covariance, total
from lossfns.joint_embedding.byol import half_squared_chord


def _views(
    view_a: jax.Array, view_b: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Checked and sanitised views."""
    where, (a, b) = prepare(where, row_axes=1, view_a=view_a, view_b=view_b)
    check_rank("view_a", a, 2, "[pairs, features]")
    if a.shape[-1] == 0:
        raise ValueError(f"view_a must have at least one feature, got shape {a.shape}")
    return a, b, where


def _off_diagonal_squares(matrix: jax.Array) -> jax.Array:
    """Sum of squares off the diagonal."""
    return jnp.sum(jnp.square(jnp.where(jnp.eye(matrix.shape[0], dtype=bool), 0, matrix)))


@loss(static=("axis_name",), redundancy_weight=non_negative, eps=non_negative)
def barlow_twins(
    view_a: jax.Array,
    view_b: jax.Array,
    *,
    redundancy_weight: float | jax.Array = 0.0051,
    eps: float | jax.Array = 1e-5,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Barlow Twins: distance of the cross-correlation of two views from the identity.

    $$\sum_i (1 - C_{ii})^2 + \lambda \sum_i \sum_{j \ne i} C_{ij}^2, \quad C_{ij} = \frac{1}{N} \sum_n
    \frac{(a_{ni} - \bar a_i) (b_{nj} - \bar b_j)}{\sqrt{(\sigma^2_{a_i} + \epsilon) (\sigma^2_{b_j} + \epsilon)}}$$

    with means and (biased) variances over the batch.

    Args:
        view_a: [N, D], projections of the first views; not normalised beforehand.
        view_b: [N, D], projections of the second views, in the same order.
        redundancy_weight: $\lambda$.
        eps: $\epsilon$, added to the variances.
        where: [N], boolean; False excludes the pair.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], one number for the whole batch in each present row, so that the mean over rows is the loss. A constant
        feature has no correlation and costs 1.

    Example:
        Two equal features in both views: all four correlations are 1, and the two off the diagonal cost 2 lambda.

        >>> views = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
        >>> print(barlow_twins(views, views, redundancy_weight=0.25, eps=0.0))
        [0.5 0.5]

    Conventions:
        - The defaults are the authors': $\lambda$ = 0.0051 (0.005 in the paper) and batch normalisation's epsilon of
          1e-5 inside the root (0 in the paper's equation).
        - The paper's listing, unlike the authors' code, divides by the unbiased standard deviation, which makes each
          correlation (N - 1)/N times this one.
        - The authors' code uses the global batch by synchronised batch normalisation.

    References:
        Zbontar et al. 2021, arXiv:2103.03230.
    """
    a, b, where = _views(view_a, view_b, where)
    count = count_present(where, a, axis_name)
    pairs = jnp.maximum(count, 1)

    def inverse_deviation(x: jax.Array) -> jax.Array:
        variance = total(jnp.sum(jnp.square(x), axis=0, keepdims=True), axis_name) / pairs + as_scalar(eps, x.dtype)
        return jax.lax.rsqrt(jnp.where(variance == 0, 1, variance))

    a, b = centered(a, where, count, axis_name), centered(b, where, count, axis_name)
    scale_a, scale_b = inverse_deviation(a), inverse_deviation(b)
    correlation = cross_covariance(a, b, axis_name) / pairs * scale_a.T * scale_b
    invariance = jnp.sum(jnp.square(1 - jnp.diagonal(correlation)))
    value = invariance + as_scalar(redundancy_weight, a.dtype) * _off_diagonal_squares(correlation)
    return broadcast_to_rows(value, a, where)


@loss(
    static=("axis_name",),
    invariance_weight=non_negative,
    variance_weight=non_negative,
    covariance_weight=non_negative,
    target_deviation=non_negative,
    eps=non_negative,
)
def vicreg(
    view_a: jax.Array,
    view_b: jax.Array,
    *,
    invariance_weight: float | jax.Array = 25.0,
    variance_weight: float | jax.Array = 25.0,
    covariance_weight: float | jax.Array = 1.0,
    target_deviation: float | jax.Array = 1.0,
    eps: float | jax.Array = 1e-4,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Invariance, variance and covariance of two views (VICReg).

    The value of a pair is $\lambda$ times its squared distance plus terms of the whole batch,

    $$\frac{\lambda}{D} \lVert a_n - b_n \rVert^2 + \sum_{z \in \{a, b\}} \left( \frac{\mu}{2 D} \sum_d
    \max(0, \gamma - \sqrt{\mathrm{Var}(z_d) + \epsilon}) + \frac{\nu}{D} \sum_{i \ne j} \mathrm{Cov}(z)_{ij}^2
    \right)$$

    with unbiased variances and covariances (N - 1), so that the mean over pairs is the authors' loss.

    Args:
        view_a: [N, D], expanded embeddings of the first views.
        view_b: [N, D], expanded embeddings of the second views, in the same order.
        invariance_weight: $\lambda$.
        variance_weight: $\mu$.
        covariance_weight: $\nu$.
        target_deviation: $\gamma$, the standard deviation below which a feature costs.
        eps: $\epsilon$, added to the variance inside the root.
        where: [N], boolean; False excludes the pair.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N]. A single pair has variance 0.

    Example:
        Distances are 0 and variances 2, above 1. Each view's covariance has two entries of 2 off the diagonal:
        (4 + 4) / 2 per view.

        >>> views = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
        >>> print(vicreg(views, views))
        [8. 8.]

    Conventions:
        - This is the authors' code: squared distances averaged over features, the variance term halved. The paper's
          equations do neither: use `invariance_weight=25 * D` and `variance_weight=50` for them.
        - `eps` is the authors' and the paper's.
        - A mean over devices of losses with local variances differs.

    References:
        Bardes et al. 2021, arXiv:2105.04906.
    """
    a, b, where = _views(view_a, view_b, where)
    count = count_present(where, a, axis_name)
    freedom, features = jnp.maximum(count - 1, 1), a.shape[1]
    gamma, small = as_scalar(target_deviation, a.dtype), as_scalar(eps, a.dtype)

    def spread_costs(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = centered(x, where, count, axis_name)
        covariance = cross_covariance(x, x, axis_name) / freedom
        variance = jnp.diagonal(covariance) + small
        # The root has no derivative at 0, reached only with an epsilon of 0.
        deviation = jnp.where(variance == 0, 0, jnp.sqrt(jnp.where(variance == 0, 1, variance)))
        return jnp.mean(jax.nn.relu(gamma - deviation)) / 2, _off_diagonal_squares(covariance) / features

    costs = [spread_costs(x) for x in (a, b)]
    of_batch = as_scalar(variance_weight, a.dtype) * (costs[0][0] + costs[1][0])
    of_batch += as_scalar(covariance_weight, a.dtype) * (costs[0][1] + costs[1][1])
    invariance = as_scalar(invariance_weight, a.dtype) * jnp.mean(jnp.square(a - b), axis=-1)
    return zero_masked(where, invariance + of_batch)


@loss(static=("axis_name", "normalize"), eps=probability, normalize=flag)
def wmse(
    view_a: jax.Array,
    view_b: jax.Array,
    *,
    eps: float | jax.Array = 0.0,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Distance between whitened views (W-MSE).

    Each view is whitened over the batch by the Cholesky factor of its covariance, $L L^T = (1 - \epsilon) \Sigma +
    \epsilon I$ with $\Sigma$ unbiased (N - 1): $z_n = L^{-1} (x_n - \bar x)$. The value of a pair is $2 - 2 \cos(z_n^a,
    z_n^b)$.

    Args:
        view_a: [N, D], embeddings of the first views; more pairs than features.
        view_b: [N, D], embeddings of the second views, in the same order.
        eps: $\epsilon$, shrinks the covariance towards the identity.
        normalize: Whether to compare whitened views by cosine; otherwise by squared difference, averaged over features.
        where: [N], boolean; False excludes the pair.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N]. NaN everywhere if a covariance is numerically singular: fewer than D + 1 pairs, constant or dependent
        features. An `eps` above 0 prevents this.

    Example:
        One feature, three times larger in one view: equal after whitening, or opposite with the other sign.

        >>> view = jnp.array([[1.0], [-1.0]])
        >>> print(wmse(view, 3 * view))
        [0. 0.]
        >>> print(wmse(view, -view))
        [4. 4.]

    Conventions:
        Each view is whitened separately and over the whole batch, like one sub-batch in the authors' code; for its
        sub-batches of 128, map with `jax.vmap` over a permuted and reshaped batch. `normalize` and `eps` have the
        defaults of their code.

    References:
        Ermolov et al. 2020, arXiv:2007.06346.
    """
    a, b, where = _views(view_a, view_b, where)
    count = count_present(where, a, axis_name)
    shrink = as_scalar(eps, a.dtype)

    def whiten(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = centered(x, where, count, axis_name)
        covariance = cross_covariance(x, x, axis_name) / jnp.maximum(count - 1, 1)
        covariance = (1 - shrink) * covariance + shrink * jnp.eye(x.shape[1], dtype=x.dtype)
        factor = jax.lax.linalg.cholesky(covariance)
        # A pivot of the size of rounding errors is a direction without variance, which cannot be whitened.
        least = x.shape[1] * jnp.finfo(x.dtype).eps * jnp.diagonal(covariance)
        invertible = jnp.all(jnp.square(jnp.diagonal(factor)) > least)
        return jax.lax.linalg.triangular_solve(factor, x, lower=True, transpose_a=True), invertible

    (a, good_a), (b, good_b) = whiten(a), whiten(b)
    values = 2 * half_squared_chord(a, b) if normalize else jnp.mean(jnp.square(a - b), axis=-1)
    return zero_masked(where, jnp.where(good_a & good_b, values, jnp.nan))
