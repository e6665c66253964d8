"""Two views of each example: each is told from the views of all others."""

import jax
import jax.numpy as jnp

from lossfns._blockwise import LogSum, stream, stream_symmetric
from lossfns._contract import accumulation_dtype, check_where, hyper, loss, optional_size, positive, zero_masked
from lossfns.contrastive._shared import (
    Side,
    against_negatives,
    check_pair,
    inner,
    negatives,
    of_all_devices,
    pair_numbers,
    units,
)


@loss(static=("axis_name", "block_size"), temperature=positive, block_size=optional_size)
def nt_xent(
    view_a: jax.Array,
    view_b: jax.Array,
    *,
    temperature: float | jax.Array = 0.5,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Normalised-temperature cross-entropy between two views of each example (SimCLR).

    With $z_1 .. z_{2N}$ the embeddings of both views, $s_{ij}$ their cosines over the temperature and $j(i)$ the other
    view of $i$, the value of a pair is the mean over its two anchors of

    $$-s_{i j(i)} + \log \sum_{k \ne i} e^{s_{ik}}$$

    so the mean over pairs is the paper's mean over 2N anchors. Only the anchor itself is left out of the sum: it has
    2N-1 terms, the positive among them. The [2N, 2N] similarities are never held: they are computed block by block,
    each block for both triangles, and recomputed in the backward pass.

    Args:
        view_a: [N, D], embeddings of the first views; normalised here.
        view_b: [N, D], embeddings of the second views, in the same order.
        temperature: Divides the cosines.
        where: [N], boolean; False deletes the pair, as an anchor and as negatives of the others.
        axis_name: Name of a mapped device axis. The negatives are then those of the global batch; each device returns
            its own pairs, and value and gradient summed over devices are those of one device.
        block_size: Views in a block; value and gradient do not depend on it. None for what is fast.

    Returns:
        [N], nats for each pair, float32 or wider; 0 at masked pairs.

    Raises:
        ValueError: If shapes do not fit or a hyper-parameter is out of range.
        TypeError: If embeddings are not floating.

    Example:
        Two pairs of identical views, at right angles to each other, at temperature 1: every anchor has its positive at
        cosine 1 and two negatives at cosine 0, so it costs log(1 + 2/e).

        >>> views = jnp.eye(2)
        >>> print(nt_xent(views, views, temperature=1.0).round(4))
        [0.5514 0.5514]

    Conventions:
        The temperature's default is the paper's for CIFAR-10; its ImageNet runs use 0.1. The cosine with a zero vector
        is 0. InfoNCE and CLIP have N terms in the sum: only the other modality's examples.

    References:
        Chen et al. 2020, arXiv:2002.05709.
    """
    check_pair("view_a", view_a, "view_b", view_b)
    where = check_where(where, view_a.shape[:1])
    pairs = view_a.shape[0]
    dtype = accumulation_dtype(view_a, view_b)
    if pairs == 0:
        return jnp.zeros(0, dtype)
    # The temperature's root divides both factors of a product: no pass over the scores.
    tau = hyper(temperature, dtype)
    scale = jax.lax.rsqrt(tau)
    a, b = units(where, view_a, dtype) * scale, units(where, view_b, dtype) * scale
    present = None if where is None else jnp.tile(where, 2)
    views = Side(jnp.concatenate([a, b]), jnp.tile(pair_numbers(pairs, axis_name), 2), present)
    if axis_name is None:
        log_sums = stream_symmetric(_both_triangles, None, views, block_size=block_size, bound=1 / tau)
    else:
        log_sums = stream(
            _all_views, views.as_rows, of_all_devices(views, axis_name), block_size=block_size, bound=1 / tau
        )
    values = against_negatives(log_sums.reshape(2, pairs), inner(a, b)[None])
    return zero_masked(where, jnp.mean(values, axis=0))


def _both_triangles(shared: None, part: Side, other: Side, index: jax.Array, other_index: jax.Array) -> jax.Array:
    return negatives(other.as_rows, part)


def _all_views(rows: Side, columns: Side, index: jax.Array) -> LogSum:
    return LogSum(negatives(rows, columns))
