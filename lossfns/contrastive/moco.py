"""Momentum contrast: keys from a momentum encoder, with or without a queue."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossfns._blockwise import LogSum, stream
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
    negatives,
    normalize_rows,
    row_dot,
)


@loss(static=("block_size",), temperature=positive, block_size=optional_size)
def moco(
    queries: jax.Array,
    keys: jax.Array,
    queue: jax.Array,
    *,
    temperature: float | jax.Array = 0.07,
    where: jax.Array | None = None,
    queue_where: jax.Array | None = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Momentum contrast (MoCo): cross-entropy of a query's key against a queue of keys.

    $$-\log \frac{e^{q \cdot k / \tau}}{e^{q \cdot k / \tau} + \sum_{j=1}^{K} e^{q \cdot u_j / \tau}}$$

    with unit vectors: the query's own key k is the positive, the K keys $u_j$ of earlier batches are the negatives. The
    [N, K] scores are never materialised.

    Args:
        queries: [N, D], embeddings; normalised here.
        keys: [N, D], the positive of each query, from the momentum encoder; normalised here, no gradient.
        queue: [K, D], earlier keys; normalised here, no gradient. Compute the loss first, then `enqueue` the keys.
        temperature: Divides the cosines.
        where: [N], boolean; False excludes the query and its key.
        queue_where: [K], boolean; False excludes a queue entry, such as one not yet filled.
        block_size: Queue entries per block; None chooses.

    Returns:
        [N], nats per query. Rows are independent: with equal queues on all devices there is nothing to gather.

    Example:
        The positive scores 1, the one negative 0: log(1 + 1/e).

        >>> query, queue = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> print(f"{moco(query, query, queue, temperature=1.0)[0]:.4f}")
        0.3133

    Conventions:
        1 + K terms, as in the authors' code; keys of the same batch are not negatives of each other, unlike in
        `moco_v3`. The temperature is the paper's; MoCo v2 has 0.2.

    References:
        He et al. 2019, arXiv:1911.05722.
    """
    check_embeddings("queries", queries, "keys", keys)
    check_array("queue", queue)
    check_rank("queue", queue, 2, "[places, features]")
    check_shape("queue", queue, (queue.shape[0], queries.shape[1]), "by the features of queries")
    where = check_where(where, queries.shape[:1])
    if queue_where is not None:
        check_shape("queue_where", check_array("queue_where", queue_where, "boolean"), queue.shape[:1], "of queue")
    dtype = accumulation_dtype(queries, keys, queue)
    if queries.shape[0] == 0:
        return jnp.zeros(0, dtype)
    tau = as_scalar(temperature, dtype)
    q, k = normalize_rows(where, queries, dtype) / tau, normalize_rows(where, jax.lax.stop_gradient(keys), dtype)
    nobody, count = jnp.full(queue.shape[0], -1), queries.shape[0]
    columns = Embeddings(jax.lax.stop_gradient(keep_rows(queue_where, queue)), nobody, queue_where)
    if queue.shape[0]:
        rows = Embeddings(q, jnp.arange(count), where).as_rows
        log_sums = stream(_not_yet_normalised, rows, columns, block_size=block_size, bound=1 / tau)
    else:
        log_sums = jnp.full(count, -jnp.inf, dtype)
    return zero_masked(where, against_negatives(log_sums, row_dot(q, k)))


def _not_yet_normalised(rows: Embeddings, columns: Embeddings, index: jax.Array) -> LogSum:
    return LogSum(negatives(rows, columns._replace(vectors=unit_vectors(columns.vectors))))


class Enqueued(NamedTuple):
    """Result of `enqueue`; its fields are arguments of the next call."""

    queue: jax.Array
    pointer: jax.Array


@loss(static=("axis_name",))
def enqueue(
    keys: jax.Array,
    queue: jax.Array,
    pointer: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> Enqueued:
    r"""Writes a batch of keys over the oldest entries of a queue.

    The queue is a ring buffer held by the caller. Keys are written from the pointer on, wrapping around at the end, as
    unit vectors without gradient.

    Args:
        keys: [N, D], embeddings; normalised here.
        queue: [K, D], K at least the number of keys of all devices.
        pointer: [], integer: index of the oldest key, where writing begins; initially 0.
        where: [N], boolean; False skips a key.
        axis_name: Mapped device axis; the keys of all devices are then written, in device order.

    Returns:
        The queue [K, D], in its dtype, and the next pointer [].

    Raises:
        ValueError: If there are more keys than entries.

    Example:
        The first key goes to the last entry, the second wraps around to the first.

        >>> queue, pointer = enqueue(jnp.array([[2.0], [-3.0]]), jnp.zeros((3, 1)), jnp.array(2))
        >>> print(queue.ravel(), pointer)
        [-1.  0.  1.] 1

    Conventions:
        The authors' code requires K to be a multiple of the batch and starts from random keys; here K is arbitrary, and
        `queue_where` of `moco` masks entries not yet filled.

    References:
        He et al. 2019, arXiv:1911.05722.
    """
    check_array("keys", keys)
    check_array("queue", queue)
    check_array("pointer", pointer, "integer")
    check_rank("keys", keys, 2, "[keys, features]")
    check_rank("queue", queue, 2, "[places, features]")
    check_rank("pointer", pointer, 0, "a scalar")
    check_shape("queue", queue, (queue.shape[0], keys.shape[1]), "by the features of keys")
    where = check_where(where, keys.shape[:1])
    present = jnp.ones(keys.shape[0], bool) if where is None else where
    new = jax.lax.stop_gradient(normalize_rows(where, keys, accumulation_dtype(keys))).astype(queue.dtype)
    new, present = gather_rows((new, present), axis_name)
    places = queue.shape[0]
    if new.shape[0] > places:
        raise ValueError(f"queue must have a place for each of the {new.shape[0]} keys of a batch, got {queue.shape}")
    if places == 0:
        return Enqueued(queue, pointer)
    before = jnp.cumsum(present) - present
    place = jnp.where(present, (pointer + before) % places, places)  # out-of-range indices are dropped
    return Enqueued(queue.at[place].set(new, mode="drop"), (pointer + jnp.sum(present)).astype(pointer.dtype) % places)


@loss(static=("axis_name", "block_size"), temperature=positive, block_size=optional_size)
def moco_v3(
    queries_a: jax.Array,
    queries_b: jax.Array,
    keys_a: jax.Array,
    keys_b: jax.Array,
    *,
    temperature: float | jax.Array = 0.2,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Momentum contrast without a queue (MoCo v3): both views are queries, the keys of the batch the negatives.

    $$2\tau \bigl(\operatorname{ctr}(q^a_i, k^b) + \operatorname{ctr}(q^b_i, k^a)\bigr), \qquad
    \operatorname{ctr}(q_i, k) = -\log \frac{e^{q_i \cdot k_i / \tau}}{\sum_j e^{q_i \cdot k_j / \tau}}$$

    with unit vectors; queries of one view are compared with keys of the other.

    Args:
        queries_a: [N, D], predictions of the encoder for the first views; normalised here.
        queries_b: [N, D], predictions for the second views.
        keys_a: [N, D], outputs of the momentum encoder for the first views; normalised here, no gradient.
        keys_b: [N, D], outputs for the second views.
        temperature: $\tau$, divides the cosines.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch.
        block_size: Keys per block; None chooses.

    Returns:
        [N], per example.

    Example:
        Each positive scores 1, the negative 0: log(1 + 1/e) both ways, times 2 at temperature 1.

        >>> eye = jnp.eye(2)
        >>> print(moco_v3(eye, eye, eye, eye, temperature=1.0).round(3))
        [1.253 1.253]

    Conventions:
        The factor $2\tau$ makes the gradient's size depend less on the temperature; without it, the mean of both terms
        is `info_nce` of cosines both ways. The default is the authors' for ViT; their code has 1 for ResNet-50.

    References:
        Chen et al. 2021, arXiv:2104.02057.
    """
    check_embeddings("queries_a", queries_a, "queries_b", queries_b)
    check_embeddings("queries_a", queries_a, "keys_a", keys_a)
    check_embeddings("queries_a", queries_a, "keys_b", keys_b)
    where = check_where(where, queries_a.shape[:1])
    count, dtype = queries_a.shape[0], accumulation_dtype(queries_a, queries_b, keys_a, keys_b)
    if count == 0:
        return jnp.zeros(0, dtype)
    tau, pair = as_scalar(temperature, dtype), row_numbers(count, axis_name)
    values = jnp.zeros(count, dtype)
    for queries, keys in ((queries_a, keys_b), (queries_b, keys_a)):
        q, k = normalize_rows(where, queries, dtype) / tau, jax.lax.stop_gradient(normalize_rows(where, keys, dtype))
        columns = gather_rows(Embeddings(k, pair, where), axis_name)
        rows = Embeddings(q, pair, where).as_rows
        log_sums = stream(log_sum_of_negatives, rows, columns, block_size=block_size, bound=1 / tau)
        values += 2 * tau * against_negatives(log_sums, row_dot(q, k))
    return zero_masked(where, values)
