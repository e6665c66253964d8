"""Two views of each example: each is told from the views of all others."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    check_array,
    check_rank,
    check_shape,
    check_where,
    hyper,
    keep_rows,
    loss,
    optional_size,
    positive,
    zero_masked,
)
from lossfns._numerics import log_normalizer, row_shift, unit_vectors


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
    2N-1 terms, the positive among them.

    Args:
        view_a: [N, D], embeddings of the first views; normalised here.
        view_b: [N, D], embeddings of the second views, in the same order.
        temperature: Divides the cosines.
        where: [N], boolean; False deletes the pair, as an anchor and as negatives of the others.
        axis_name: Name of a mapped device axis. The negatives are then those of the global batch; each device returns
            its own pairs, and value and gradient summed over devices are those of one device.
        block_size: Anchors handled at a time. The [2N, 2N] similarities are then never held at once, but recomputed
            block by block in the backward pass; value and gradient are the same. None handles all at once.

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
    check_array("view_a", view_a)
    check_array("view_b", view_b)
    check_rank("view_a", view_a, 2, "[pairs, features]")
    check_shape("view_b", view_b, view_a.shape, "of view_a")
    where = check_where(where, view_a.shape[:1])
    pairs = view_a.shape[0]
    dtype = accumulation_dtype(view_a, view_b)
    if pairs == 0:
        return jnp.zeros(0, dtype)
    present = jnp.ones(pairs, bool) if where is None else where
    # [N, 2, D]: the views of pair i are rows 2i and 2i + 1, so the positive of row r is row r ^ 1, on any device.
    local = unit_vectors(keep_rows(where, jnp.stack([view_a, view_b], 1)).astype(dtype))
    first = jnp.zeros((), jnp.int32)
    everyone, all_present = local, present
    if axis_name is not None:
        everyone, all_present = jax.lax.all_gather((local, present), axis_name, axis=0, tiled=True)
        first = jax.lax.axis_index(axis_name) * pairs
    anchors = local.reshape(2 * pairs, -1) / hyper(temperature, dtype)
    keys = everyone.reshape(-1, local.shape[-1])
    key_present = jnp.repeat(all_present, 2)
    own = 2 * first + jnp.arange(2 * pairs)

    def anchor_loss(anchor: jax.Array, index: jax.Array, is_present: jax.Array) -> jax.Array:
        cosines = jnp.dot(keys, anchor, precision=jax.lax.Precision.HIGHEST)
        column = jnp.arange(keys.shape[0])
        # An absent anchor's row would be empty; it is given a harmless one, as its value is dropped at the end.
        scores = jnp.where(is_present, jnp.where(key_present & (column != index), cosines, -jnp.inf), 0)
        shift = row_shift(scores)[1]
        return log_normalizer(scores, shift) - (cosines[index ^ 1] - shift[0])

    xs = anchors, own, jnp.repeat(present, 2)
    if block_size is None:
        values = jax.vmap(anchor_loss)(*xs)
    else:
        values = jax.lax.map(lambda x: jax.checkpoint(anchor_loss)(*x), xs, batch_size=min(block_size, 2 * pairs))
    return zero_masked(where, jnp.mean(values.reshape(pairs, 2), axis=-1))
