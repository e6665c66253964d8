"""InfoNCE: which of the keys belongs to this query?"""

import jax
import jax.numpy as jnp

from lossfns._blockwise import stream
from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    check_where,
    loss,
    one_of,
    optional_size,
    positive,
    sanitize,
    zero_masked,
)
from lossfns._global_batch import gather_rows
from lossfns.contrastive._shared import (
    against_negatives,
    check_embeddings,
    log_sum_of_negatives,
    max_norm,
    normalize_rows,
    paired_sides,
    row_dot,
)


@loss(
    static=("similarity", "axis_name", "block_size"),
    temperature=positive,
    similarity=one_of("cosine", "dot"),
    block_size=optional_size,
)
def info_nce(
    queries: jax.Array,
    keys: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
    similarity: str = "dot",
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""InfoNCE: cross-entropy of a query's key among the keys of the batch.

    $$-\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}, \qquad s_{ij} = \langle q_i, k_j \rangle / \tau$$

    with the N keys of the batch, including the positive. log N minus the mean is a lower bound of the mutual
    information. The [N, N] scores are never materialised.

    Args:
        queries: [N, D], embeddings.
        keys: [N, D], row i the positive of query i and a negative of the others.
        temperature: Divides the scores.
        similarity: "dot" for inner products of the embeddings, "cosine" for cosines.
        where: [N], boolean; False excludes the query and its key.
        axis_name: Mapped device axis of the global batch.
        block_size: Keys per block; None chooses.

    Returns:
        [N], nats per query.

    Example:
        The positive scores 1, the one negative 0: log(1 + 1/e).

        >>> print(f"{info_nce(jnp.eye(2), jnp.eye(2))[0]:.4f}")
        0.3133

    Conventions:
        The paper scores by $z^T W c$: pass $Wc$ as the queries, with the defaults. Most later work and most libraries
        use cosines and a temperature of 0.07 to 0.1. `clip` has both directions; `nt_xent` also takes negatives from
        the queries' side.

    References:
        Oord et al. 2018, arXiv:1807.03748.
    """
    check_embeddings("queries", queries, "keys", keys)
    where = check_where(where, queries.shape[:1])
    dtype = accumulation_dtype(queries, keys)
    if queries.shape[0] == 0:
        return jnp.zeros(0, dtype)
    if similarity == "cosine":
        q, k = normalize_rows(where, queries, dtype), normalize_rows(where, keys, dtype)
    else:
        q, k = sanitize(where, queries, keys)
    rows, columns = paired_sides(q / as_scalar(temperature, dtype), k, where, axis_name)
    columns = gather_rows(columns, axis_name)
    bound = max_norm(rows.vectors) * max_norm(columns.vectors)
    log_sums = stream(log_sum_of_negatives, rows.as_rows, columns, block_size=block_size, bound=bound)
    return zero_masked(where, against_negatives(log_sums, row_dot(rows.vectors, k)))
