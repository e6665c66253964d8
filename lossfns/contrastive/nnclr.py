"""NNCLR: the nearest neighbour of one view is the positive of the other."""

import jax
import jax.numpy as jnp

from lossfns._blockwise import product, stream
from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    check_array,
    check_rank,
    check_shape,
    check_where,
    keep_rows,
    loss,
    optional_size,
    positive,
    zero_masked,
)
from lossfns._global_batch import gather_rows, row_numbers
from lossfns._numerics import unit_vectors
from lossfns.contrastive._shared import (
    Embeddings,
    against_negatives,
    check_embeddings,
    log_sum_of_negatives,
    normalize_rows,
    row_dot,
)


@loss(static=("axis_name", "block_size"), temperature=positive, block_size=optional_size)
def nnclr(
    embeddings_a: jax.Array,
    embeddings_b: jax.Array,
    predictions_a: jax.Array,
    predictions_b: jax.Array,
    queue: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
    where: jax.Array | None = None,
    queue_where: jax.Array | None = None,
    axis_name: AxisName = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Nearest-neighbour contrastive learning (NNCLR): the positive is the nearest neighbour of the other view.

    With $q(z)$ the queue entry of largest cosine with the embedding z, and p the predictions, the value of a pair is
    the mean over both directions of

    $$-\log \frac{e^{q(z^a_i) \cdot p^b_i / \tau}}{\sum_j e^{q(z^a_i) \cdot p^b_j / \tau}}$$

    of unit vectors. The [N, N] scores are never materialised; the [N, K] cosines with the queue are, without gradient.

    Args:
        embeddings_a: [N, D], projections of the first views, used only to find the neighbours: no gradient.
        embeddings_b: [N, D], projections of the second views, in the same order.
        predictions_a: [N, D], outputs of the predictor for the first views; normalised here.
        predictions_b: [N, D], predictions of the second views.
        queue: [K, D], the support set: earlier embeddings; normalised here, no gradient. Compute the loss first, then
            `enqueue` the embeddings of the first views.
        temperature: $\tau$, divides the cosines.
        where: [N], boolean; False excludes the pair.
        queue_where: [K], boolean; False excludes a queue entry. If none is left, all values are NaN: start with random
            vectors, as the authors do.
        axis_name: Mapped device axis of the global batch; the queue is the same on all devices.
        block_size: Predictions per block; None chooses.

    Returns:
        [N], nats per pair.

    Raises:
        ValueError: If the queue is empty.

    Example:
        Each view finds itself in the queue: the positive scores 1, the negative 0.

        >>> eye = jnp.eye(2)
        >>> print(f"{nnclr(eye, eye, eye, eye, eye, temperature=1.0)[0]:.4f}")
        0.3133

    Conventions:
        The sum is over the N predictions of the other view, as in the paper's listing, averaged over both directions.
        The default temperature is the paper's.

    References:
        Dwibedi et al. 2021, arXiv:2104.14548.
    """
    for name, other in (("embeddings_b", embeddings_b), ("predictions_a", predictions_a)):
        check_embeddings("embeddings_a", embeddings_a, name, other)
    check_embeddings("embeddings_a", embeddings_a, "predictions_b", predictions_b)
    check_array("queue", queue)
    check_rank("queue", queue, 2, "[places, features]")
    check_shape("queue", queue, (queue.shape[0], embeddings_a.shape[1]), "by the features of embeddings_a")
    if queue.shape[0] == 0:
        raise ValueError(f"queue must have at least one place, got shape {queue.shape}")
    where = check_where(where, embeddings_a.shape[:1])
    if queue_where is not None:
        check_shape("queue_where", check_array("queue_where", queue_where, "boolean"), queue.shape[:1], "of queue")
    count, dtype = embeddings_a.shape[0], accumulation_dtype(predictions_a, predictions_b, embeddings_a, embeddings_b)
    if count == 0:
        return jnp.zeros(0, dtype)
    tau, pair = as_scalar(temperature, dtype), row_numbers(count, axis_name)
    support = unit_vectors(keep_rows(queue_where, jax.lax.stop_gradient(queue)).astype(dtype))
    values = jnp.zeros(count, dtype)
    for embeddings, predictions in ((embeddings_a, predictions_b), (embeddings_b, predictions_a)):
        z = normalize_rows(where, jax.lax.stop_gradient(embeddings), dtype)
        q, p = _nearest(z, support, queue_where) / tau, normalize_rows(where, predictions, dtype)
        columns = gather_rows(Embeddings(p, pair, where), axis_name)
        rows = Embeddings(q, pair, where).as_rows
        log_sums = stream(log_sum_of_negatives, rows, columns, block_size=block_size, bound=1 / tau)
        values += against_negatives(log_sums, row_dot(q, p)) / 2
    return zero_masked(where, values)


def _nearest(z: jax.Array, support: jax.Array, where: jax.Array | None) -> jax.Array:
    """For each unit vector, the vector of the support with the largest cosine; NaN for an empty support."""
    cosines = product(z, support.T)
    if where is not None:
        cosines = jnp.where(where[None], cosines, -jnp.inf)
    best = jnp.argmax(cosines, axis=1)
    # With an empty support all scores are -inf; NaN counts as the largest.
    finite = jnp.isfinite(jnp.take_along_axis(cosines, best[:, None], axis=1))
    return jnp.where(finite, support[best], jnp.nan)
