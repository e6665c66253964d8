"""Alignment and uniformity: views of an example close together, examples spread over the sphere."""

import jax
import jax.numpy as jnp

from lossfns._blockwise import LogSum, product, stream
from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    check_array,
    check_rank,
    check_where,
    loss,
    optional_size,
    positive,
    zero_masked,
)
from lossfns._global_batch import broadcast_to_rows, count_present, gather_rows, log_sum_rows, row_numbers
from lossfns.contrastive._shared import Embeddings, check_embeddings, normalize_rows, valid_pairs


@loss(alpha=positive)
def alignment(
    view_a: jax.Array, view_b: jax.Array, *, alpha: float | jax.Array = 2.0, where: jax.Array | None = None
) -> jax.Array:
    r"""Distance of the two views of an example on the unit sphere, $\|u_a - u_b\|^\alpha$.

    Args:
        view_a: [N, D], embeddings of the first views; normalised here.
        view_b: [N, D], embeddings of the second views, in the same order.
        alpha: Exponent of the distance.
        where: [N], boolean; False excludes the pair.

    Returns:
        [N], per pair, between 0 and $2^\alpha$.

    Example:
        Orthogonal views are at a squared distance of 2.

        >>> print(alignment(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 5.0]])))
        [2.]

    Conventions:
        The paper's exponent is 2, which gives 2 - 2 cos. The authors' code leaves normalising to the caller. For an
        exponent below 2 the gradient at equal views is set to 0.

    References:
        Wang and Isola 2020, arXiv:2005.10242.
    """
    check_embeddings("view_a", view_a, "view_b", view_b)
    where = check_where(where, view_a.shape[:1])
    dtype = accumulation_dtype(view_a, view_b)
    squares = jnp.sum(jnp.square(normalize_rows(where, view_a, dtype) - normalize_rows(where, view_b, dtype)), axis=-1)
    # As a power of the squared distance, so that the second derivative at equal views is right for exponent 2.
    more, equal = as_scalar(alpha, dtype) / 2 - 1, squares == 0
    factor = jnp.exp(more * jnp.log(jnp.where(equal, 1, squares)))
    return zero_masked(where, squares * jnp.where(equal, jnp.where(more == 0, 1, 0).astype(dtype), factor))


@loss(static=("axis_name", "block_size"), t=positive, block_size=optional_size)
def uniformity(
    embeddings: jax.Array,
    *,
    t: float | jax.Array = 2.0,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Uniformity: log of the mean Gaussian potential of an example with all others on the unit sphere.

    $$\log \frac{1}{N (N - 1)} \sum_{i \ne j} e^{-t \|u_i - u_j\|^2}$$

    The [N, N] distances are never materialised.

    Args:
        embeddings: [N, D]; normalised here.
        t: Sharpness of the Gaussian potential.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch.
        block_size: Examples per block; None chooses.

    Returns:
        [N], one number for the whole batch in each present row, so that the mean over rows is the loss; between -4t and
        0, and 0 for a single example.

    Example:
        Two orthogonal examples, at a squared distance of 2: -2 t.

        >>> print(uniformity(jnp.eye(2)))
        [-4. -4.]

    Conventions:
        The default is the paper's. The authors' code leaves normalising to the caller and averages the uniformity of
        both views; with all views in one batch, views of an example would be pushed apart.

    References:
        Wang and Isola 2020, arXiv:2005.10242.
    """
    check_array("embeddings", embeddings)
    check_rank("embeddings", embeddings, 2, "[examples, features]")
    where = check_where(where, embeddings.shape[:1])
    dtype = accumulation_dtype(embeddings)
    if embeddings.shape[0] == 0:
        return jnp.zeros(0, dtype)
    u = normalize_rows(where, embeddings, dtype)
    here = Embeddings(u, row_numbers(u.shape[0], axis_name), where)
    block_sums = stream(
        _potentials, (here.as_rows, as_scalar(t, dtype)), gather_rows(here, axis_name), block_size=block_size
    )
    count = count_present(where, u, axis_name)
    log_sum = log_sum_rows(block_sums[:, None], None, axis_name)[0, 0]
    value = jnp.where(count > 1, log_sum, 0) - jnp.log(jnp.where(count > 1, count * (count - 1), 1))
    return broadcast_to_rows(value, u, where)


def _potentials(row_inputs: tuple[Embeddings, jax.Array], columns: Embeddings, index: jax.Array) -> LogSum:
    rows, t = row_inputs
    # |u - v|^2 of the given vectors: a zero vector is at distance 1 from all others.
    squares = jnp.sum(jnp.square(columns.vectors), axis=1)[:, None] + jnp.sum(jnp.square(rows.vectors), axis=0)[None]
    counts = valid_pairs(rows, columns, columns.pair[:, None] != rows.pair[None])
    return LogSum(jnp.where(counts, t * (2 * product(columns.vectors, rows.vectors) - squares), -jnp.inf))
