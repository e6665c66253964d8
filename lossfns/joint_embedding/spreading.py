"""Penalties that spread embeddings out: KoLeo between neighbours, SIGReg towards a Gaussian."""

import jax
import jax.numpy as jnp

from lossfns._blockwise import map_rows
from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    check_array,
    check_rank,
    check_where,
    keep_rows,
    loss,
    non_negative,
    optional_size,
    positive,
    zero_masked,
)
from lossfns._global_batch import broadcast_to_rows, count_present, total
from lossfns._numerics import unit_vectors

# In float32, dot products cannot separate neighbours closer than 3e-4: the nearest few are compared by distance.
_CANDIDATES = 4


def _check_embeddings(embeddings: jax.Array) -> None:
    check_rank("embeddings", check_array("embeddings", embeddings), 2, "[rows, features]")
    if embeddings.shape[1] == 0:
        raise ValueError(f"embeddings must have at least one feature, got shape {embeddings.shape}")


@loss(static=("axis_name",), eps=non_negative)
def koleo(
    embeddings: jax.Array,
    *,
    eps: float | jax.Array = 1e-8,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Negative log-distance to the nearest other embedding of the batch (KoLeo).

    $$-\log \left( \min_{m \ne n} \lVert u_n - u_m \rVert + \epsilon \right), \quad u = x / \lVert x \rVert$$

    Args:
        embeddings: [N, D], normalised here.
        eps: $\epsilon$, added to the distance: two equal rows cost $-\log \epsilon$ without a gradient between them,
            or infinity for 0. Rows within rounding of each other are equal.
        where: [N], boolean; False excludes the row.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], nats per row, negative above a distance of 1; 0 for a single row.

    Example:
        Two orthogonal rows, and one opposite to the first: each is at a distance of root 2 from the nearest.

        >>> print(koleo(jnp.array([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0]])).round(4))
        [-0.3466 -0.3466 -0.3466]

    Conventions:
        - The paper has no epsilon; 1e-8 is DINOv2's, which also adds it to each coordinate's difference.
        - DINOv2 searches within one device; `axis_name` searches the global batch.
        - Of the four neighbours with the largest dot products the nearest is taken, which is accurate among nearly
          collapsed rows too. Both rows of a pair get a gradient.

    References:
        Sablayrolles et al. 2018, arXiv:1806.03198. Oquab et al. 2023, arXiv:2304.07193 (DINOv2).
    """
    _check_embeddings(embeddings)
    where = check_where(where, embeddings.shape[:1])
    rows = embeddings.shape[0]
    units = unit_vectors(keep_rows(where, embeddings))
    if rows == 0:
        return jnp.zeros(0, units.dtype)
    everyone, present = units, jnp.ones(rows, bool) if where is None else where
    own = jnp.arange(rows)
    if axis_name is not None:
        everyone, present = jax.lax.all_gather((units, present), axis_name, axis=0, tiled=True)
        own = own + jax.lax.axis_index(axis_name) * rows
    nearest, found = _nearest(jax.lax.stop_gradient(units), jax.lax.stop_gradient(everyone), present, own)
    squares = jnp.sum(jnp.square(units - everyone[nearest]), axis=-1)
    # Rows closer than the rounding of unit vectors count as equal: at 0 the root has no derivative, and at rounding
    # errors a huge one.
    together = squares <= (2 * jnp.finfo(units.dtype).eps) ** 2
    distance = jnp.where(together, 0, jnp.sqrt(jnp.where(together, 1, squares)))
    small = as_scalar(eps, units.dtype)
    values = -jnp.log(distance + small)
    return zero_masked(where, jnp.where(found, values, 0))


def _nearest(units: jax.Array, everyone: jax.Array, present: jax.Array, own: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Index of the nearest other present row, and whether it exists."""
    dots = jnp.einsum("nd,md->nm", units, everyone, precision=jax.lax.Precision.HIGHEST)
    # A zero row is at distance 1 from every unit vector, as if their dot product were 1/2.
    dots += jnp.where(jnp.all(everyone == 0, axis=-1), 0.5, 0)[None]
    usable = present[None] & (jnp.arange(everyone.shape[0])[None] != own[:, None])
    scores, candidates = jax.lax.top_k(jnp.where(usable, dots, -jnp.inf), min(_CANDIDATES, everyone.shape[0]))
    squares = jnp.sum(jnp.square(units[:, None] - everyone[candidates]), axis=-1)
    best = jnp.argmin(jnp.where(scores == -jnp.inf, jnp.inf, squares), axis=-1)
    return jnp.take_along_axis(candidates, best[:, None], axis=-1)[:, 0], scores[:, 0] != -jnp.inf


@loss(static=("knots", "axis_name"), knots=optional_size, largest_frequency=positive)
def sigreg(
    embeddings: jax.Array,
    directions: jax.Array,
    *,
    knots: int = 17,
    largest_frequency: float | jax.Array = 3.0,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Distance of the batch from an isotropic Gaussian along random directions (SIGReg, LeJEPA).

    $$\frac{1}{M} \sum_m N \int_{-T}^{T} \left| \frac{1}{N} \sum_n e^{i t \langle a_m, x_n \rangle} - e^{-t^2 / 2}
    \right|^2 e^{-t^2 / 2} \, dt$$

    for unit directions $a_m$: the Epps-Pulley statistic of each projection, by the trapezoidal rule.

    Args:
        embeddings: [N, D]; not normalised.
        directions: [D, M], one direction per column, normalised here; constants. Draw new ones each step,
            `jax.random.normal(key, (D, M))`, the same on all devices.
        knots: Number of frequencies from 0 to T; at least 2.
        largest_frequency: T.
        where: [N], boolean; False excludes the row.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], one number for the whole batch in each present row, so that the mean over rows is the loss.

    Example:
        All embeddings at the origin, frequencies 0, 1 and 2: the characteristic function is 1, the squared errors 0,
        (1 - 0.6065)^2 and (1 - 0.1353)^2, the window 1, 0.6065 and 0.1353, the weights 1, 2 and 1.

        >>> zeros, directions = jnp.zeros((1, 2)), jnp.eye(2)
        >>> print(sigreg(zeros, directions, knots=3, largest_frequency=2.0).round(4))
        [0.289]

    Conventions:
        - The defaults are from the authors' code, which integrates over half of the line and doubles; the paper's
          listing has 17 knots from -5 to 5, equal to `knots=9, largest_frequency=5.0`.
        - The factor N makes it a test statistic, which grows with the batch if the batch is not Gaussian.
        - LeJEPA's loss is (1 - lambda) times the views' squared distance from their mean, plus lambda times this, one
          call per view.

    References:
        Balestriero and LeCun 2025, arXiv:2511.08544. Epps and Pulley 1983, doi:10.1093/biomet/70.3.723.
    """
    _check_embeddings(embeddings)
    check_rank("directions", check_array("directions", directions), 2, "[features, directions]")
    if directions.shape[0] != embeddings.shape[1] or directions.shape[1] == 0:
        expected = f"({embeddings.shape[1]}, directions) for embeddings {embeddings.shape}"
        raise ValueError(f"directions must have the shape {expected}, got {directions.shape}")
    if knots is None or knots < 2:
        raise ValueError(f"knots must be at least 2, got {knots}")
    where = check_where(where, embeddings.shape[:1])
    dtype = accumulation_dtype(embeddings, directions)
    x = keep_rows(where, embeddings).astype(dtype)
    columns = unit_vectors(jax.lax.stop_gradient(directions).astype(dtype).T)
    projected = jnp.einsum("md,nd->mn", columns, x, precision=jax.lax.Precision.HIGHEST)
    present = jnp.ones(x.shape[0], bool) if where is None else where
    count = count_present(where, x, axis_name)
    step = as_scalar(largest_frequency, dtype) / (knots - 1)
    t = step * jnp.arange(knots, dtype=dtype)
    window = jnp.exp(-jnp.square(t) / 2)

    def sums(part: jax.Array) -> jax.Array:
        angles = part[:, None] * t[None, :, None]
        waves = (jnp.where(present[None, None], f(angles), 0) for f in (jnp.cos, jnp.sin))
        return jnp.stack([jnp.sum(wave, axis=-1) for wave in waves], axis=-1)

    means = total(map_rows(sums, projected, 2 * knots * x.shape[0]), axis_name) / jnp.maximum(count, 1)
    errors = jnp.square(means[..., 0] - window[None]) + jnp.square(means[..., 1])
    weights = window * step * jnp.where((jnp.arange(knots) % (knots - 1)) == 0, 1, 2)
    return broadcast_to_rows(count * jnp.mean(jnp.einsum("t,mt->m", weights, errors)), x, where)
