"""Pairs of two kinds, such as queries and keys or images and texts: each is told from the partners of all others."""

from typing import Any

import jax
import jax.numpy as jnp

from lossfns._blockwise import ColumnLogSum, LogSum, Sum, product, stream, stream_ring
from lossfns._contract import (
    accumulation_dtype,
    check_where,
    finite,
    flag,
    hyper,
    keep_rows,
    loss,
    one_of,
    optional_size,
    positive,
    zero_masked,
)
from lossfns.contrastive._shared import (
    Side,
    against_negatives,
    among,
    check_pair,
    inner,
    longest,
    negatives,
    of_all_devices,
    pair_numbers,
    units,
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
    axis_name: str | tuple[str, ...] | None = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Noise-contrastive estimate of mutual information: which of the keys belongs to this query?

    $$-\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}, \qquad s_{ij} = \langle q_i, k_j \rangle / \tau$$

    with the N keys of the batch, the positive among them. log N minus its mean is a lower bound of the mutual
    information. The [N, N] scores are never held: they are computed block by block, and again in the backward pass.

    Args:
        queries: [N, D], embeddings.
        keys: [N, D], the positive of query i in row i; the other rows are its negatives.
        temperature: Divides the scores.
        similarity: "dot" compares the embeddings as they come, "cosine" their directions.
        where: [N], boolean; False deletes the query and its key.
        axis_name: Name of a mapped device axis. The keys are then those of the global batch; each device returns its
            own queries, and value and gradient summed over devices are those of one device.
        block_size: Keys in a block; value and gradient do not depend on it. None for what is fast.

    Returns:
        [N], nats for each query, float32 or wider; 0 at masked queries.

    Raises:
        ValueError: If shapes do not fit or a hyper-parameter is out of range.
        TypeError: If embeddings are not floating.

    Example:
        The positive scores 1, the one negative 0: log(1 + 1/e).

        >>> print(f"{info_nce(jnp.eye(2), jnp.eye(2))[0]:.4f}")
        0.3133

    Conventions:
        The paper scores by $z^T W c$: give $Wc$ as the queries, with the defaults here. Most later work, and most
        libraries, take cosines and a temperature of 0.07 to 0.1. One direction only: `clip` has both, `nt_xent` also
        takes negatives from the queries' own side.

    References:
        Oord et al. 2018, arXiv:1807.03748.
    """
    check_pair("queries", queries, "keys", keys)
    where = check_where(where, queries.shape[:1])
    dtype = accumulation_dtype(queries, keys)
    if queries.shape[0] == 0:
        return jnp.zeros(0, dtype)
    if similarity == "cosine":
        q, k = units(where, queries, dtype), units(where, keys, dtype)
    else:
        q, k = keep_rows(where, queries).astype(dtype), keep_rows(where, keys).astype(dtype)
    rows, columns = _sides(q / hyper(temperature, dtype), k, where, axis_name)
    columns = of_all_devices(columns, axis_name)
    bound = longest(rows.vectors) * longest(columns.vectors)
    log_sums = stream(_negatives, rows.as_rows, columns, block_size=block_size, bound=bound)
    return zero_masked(where, against_negatives(log_sums, inner(rows.vectors, k)))


def _sides(a: jax.Array, b: jax.Array, where: jax.Array | None, axis_name: Any) -> tuple[Side, Side]:
    pair = pair_numbers(a.shape[0], axis_name)
    return Side(a, pair, where), Side(b, pair, where)


def _negatives(rows: Side, columns: Side, index: jax.Array) -> LogSum:
    return LogSum(negatives(rows, columns))


@loss(
    static=("axis_name", "ring", "block_size"), scale=positive, max_scale=positive, ring=flag, block_size=optional_size
)
def clip(
    a: jax.Array,
    b: jax.Array,
    *,
    scale: float | jax.Array = 1 / 0.07,
    max_scale: float | jax.Array = 100.0,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    ring: bool = False,
    block_size: int | None = None,
) -> jax.Array:
    r"""Language-image pretraining (CLIP): which text belongs to this image, and which image to this text?

    With $s_{ij}$ the cosines of $a_i$ and $b_j$ times the scale, the value of a pair is the mean of both directions,

    $$\tfrac12 \Bigl(\log \sum_j e^{s_{ij}} + \log \sum_j e^{s_{ji}}\Bigr) - s_{ii}$$

    The [N, N] scores are never held: rows and columns are summed in one pass over blocks, and the blocks are computed
    again in the backward pass.

    Args:
        a: [N, D], embeddings of the one kind; normalised here.
        b: [N, D], embeddings of the other, in the same order.
        scale: Multiplies the cosines; the reciprocal of a temperature. To learn it, learn its logarithm: give
            `jnp.exp(log_scale)`.
        max_scale: Scales above it are replaced by it. The gradient then is that of the scale put back to the bound.
        where: [N], boolean; False deletes the pair.
        axis_name: Name of a mapped device axis. The batch is then the global one; each device returns its own pairs,
            and value and gradient summed over devices are those of one device.
        ring: Whether, over `axis_name`, `b` is handed from device to device instead of gathered: no device then ever
            holds the embeddings of all devices. Value and gradient are the same.
        block_size: Rows of `b` in a block; value and gradient do not depend on it. None for what is fast.

    Returns:
        [N], nats for each pair, float32 or wider; 0 at masked pairs.

    Raises:
        ValueError: If shapes do not fit or a hyper-parameter is out of range.
        TypeError: If embeddings are not floating.

    Example:
        The positive has cosine 1, the one negative of either direction 0: log(1 + 1/e) at scale 1.

        >>> print(f"{clip(jnp.eye(2), jnp.eye(2), scale=1.0)[0]:.4f}")
        0.3133

    Conventions:
        The scale starts at 1/0.07 and is kept at 100 or below. open_clip does so by resetting the learnt logarithm
        after each step, so its gradient at the bound is the one here, and a scale at the bound can come back. Over
        devices, open_clip's gradient without `gather_with_grad` leaves out what other devices' losses say of one's own
        embeddings; here it is never left out.

    References:
        Radford et al. 2021, arXiv:2103.00020.
    """
    check_pair("a", a, "b", b)
    where = check_where(where, a.shape[:1])
    dtype = accumulation_dtype(a, b)
    if a.shape[0] == 0:
        return jnp.zeros(0, dtype)
    factor, bound = hyper(scale, dtype), hyper(max_scale, dtype)
    factor += jax.lax.stop_gradient(jnp.minimum(factor, bound) - factor)
    rows, columns = _sides(units(where, a, dtype) * factor, units(where, b, dtype), where, axis_name)
    if axis_name is not None and ring:
        of_rows, of_columns = stream_ring(
            _both_ways, rows.as_rows, columns, axis_name, block_size=block_size, bound=factor
        )
    else:
        everyone = of_all_devices(columns, axis_name)
        of_rows, of_columns = stream(_both_ways, rows.as_rows, everyone, block_size=block_size, bound=factor)
        if axis_name is not None:  # the sums over the rows of each device, brought to the device of the column
            parts = of_columns.reshape(-1, a.shape[0])
            parts = jax.lax.all_to_all(parts, axis_name, split_axis=0, concat_axis=0, tiled=True)
            of_columns = _log_sum_of(parts)
    own = inner(rows.vectors, columns.vectors)
    values = (against_negatives(of_rows, own) + against_negatives(of_columns, own)) / 2
    return zero_masked(where, values)


def _both_ways(rows: Side, columns: Side, index: jax.Array) -> tuple[LogSum, ColumnLogSum]:
    scores = negatives(rows, columns)
    return LogSum(scores), ColumnLogSum(scores)


def _log_sum_of(parts: jax.Array) -> jax.Array:
    """The log-sum of log-sums over the first axis, -inf where all are, with gradient 0."""
    empty = jnp.all(parts == -jnp.inf, axis=0)
    return jnp.where(empty, -jnp.inf, jax.nn.logsumexp(jnp.where(empty, 0, parts), axis=0))


@loss(static=("axis_name", "ring", "block_size"), scale=positive, bias=finite, ring=flag, block_size=optional_size)
def siglip(
    a: jax.Array,
    b: jax.Array,
    *,
    scale: float | jax.Array = 10.0,
    bias: float | jax.Array = -10.0,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    ring: bool = False,
    block_size: int | None = None,
) -> jax.Array:
    r"""Sigmoid loss for language-image pretraining (SigLIP): does this text belong to this image, yes or no?

    $$\sum_j \log\bigl(1 + e^{-z_{ij} (t \cos(a_i, b_j) + \beta)}\bigr), \qquad z_{ii} = 1,\; z_{ij} = -1 \text{ else}$$

    is the value of row i: the sum, not the mean, over its N pairs. The mean over rows is the paper's sum over all pairs
    divided by N. The [N, N] scores are never held. There is no normaliser to wait for, so in a gradient's forward pass
    each block gives its part of the gradient at once; if the weights of the rows then turn out unequal, the blocks are
    computed again.

    Args:
        a: [N, D], embeddings of the one kind; normalised here.
        b: [N, D], embeddings of the other, in the same order.
        scale: $t$, multiplies the cosines. To learn it, learn its logarithm: give `jnp.exp(log_scale)`.
        bias: $\beta$, added to the scaled cosines.
        where: [N], boolean; False deletes the pair, and with it all pairs that its two embeddings are in.
        axis_name: Name of a mapped device axis. The batch is then the global one; each device returns its own rows of
            `a`, and value and gradient summed over devices are those of one device.
        ring: Whether, over `axis_name`, `b` is handed from device to device instead of gathered, as in the paper: no
            device then ever holds the embeddings of all devices. Value and gradient are the same.
        block_size: Rows of `b` in a block; value and gradient do not depend on it. None for what is fast.

    Returns:
        [N], nats for each row of `a`, float32 or wider; 0 at masked rows.

    Raises:
        ValueError: If shapes do not fit or a hyper-parameter is out of range.
        TypeError: If embeddings are not floating.

    Example:
        Without scale to speak of and without bias, each of the two pairs of a row costs log 2.

        >>> print(siglip(jnp.eye(2), jnp.eye(2), scale=1e-9, bias=0.0).round(4))
        [1.3863 1.3863]

    Conventions:
        The defaults are where the paper starts learning: scale 10, given as its logarithm there, and bias -10. The bias
        answers the N-1 negatives to one positive: 1024 random pairs start at about 10, without it at about 734. Divided
        by N, as in big_vision; a mean over all pairs is N times smaller. The columns give other values of single rows,
        but the same mean.

    References:
        Zhai et al. 2023, arXiv:2303.15343.
    """
    check_pair("a", a, "b", b)
    where = check_where(where, a.shape[:1])
    dtype = accumulation_dtype(a, b)
    if a.shape[0] == 0:
        return jnp.zeros(0, dtype)
    rows, columns = _sides(units(where, a, dtype) * hyper(scale, dtype), units(where, b, dtype), where, axis_name)
    # A bias for each row: its gradient is then summed over columns first, which XLA vectorises on CPU.
    row_inputs = rows.as_rows, jnp.broadcast_to(hyper(bias, dtype), a.shape[:1])
    if axis_name is not None and ring:
        values = stream_ring(_yes_or_no, row_inputs, columns, axis_name, block_size=block_size)
    else:
        present = jnp.ones(a.shape[0], dtype) if where is None else where.astype(dtype)
        everyone = of_all_devices(columns, axis_name)
        values = stream(_yes_or_no, row_inputs, everyone, block_size=block_size, expected=present)
    return zero_masked(where, values)


def _yes_or_no(row_inputs: tuple[Side, jax.Array], columns: Side, index: jax.Array) -> Sum:
    rows, bias = row_inputs
    scores = product(columns.vectors, rows.vectors) + bias[None]
    costs = _softplus(jnp.where(columns.pair[:, None] == rows.pair[None], -scores, scores))
    if rows.present is None and columns.present is None:
        return Sum(costs)
    return Sum(jnp.where(among(rows, columns, jnp.ones((1, 1), bool)), costs, 0))


@jax.custom_jvp
def _softplus(x: jax.Array) -> jax.Array:
    """log(1 + e^x), one exponential and one logarithm; its slope one exponential more, not the value once again."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@_softplus.defjvp
def _softplus_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _softplus(primals[0]), jax.nn.sigmoid(primals[0]) * tangents[0]
