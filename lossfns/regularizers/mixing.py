"""Mixtures of examples and their targets: mixup and CutMix."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_array,
    check_rank,
    check_shape,
    check_where,
    keep_rows,
    loss,
    one_of,
    positive,
)


class Mixed(NamedTuple):
    """A batch of mixed examples."""

    inputs: jax.Array
    """[N, ...], float32 or wider; 0 at masked examples."""
    targets: jax.Array
    """[N, C], the mixed targets; 0 at masked examples."""
    partners: jax.Array
    """[N], integers: index of each example's partner; its own at masked examples."""
    ratios: jax.Array
    """[N], weight of each example itself."""


@loss(static=("per",), alpha=positive, per=one_of("batch", "example"))
def mixup(
    key: jax.Array,
    inputs: jax.Array,
    targets: jax.Array,
    *,
    alpha: float | jax.Array = 0.2,
    per: str = "batch",
    where: jax.Array | None = None,
) -> Mixed:
    r"""Mixup: convex combinations of pairs of examples and their targets.

    $$\lambda x_i + (1 - \lambda) x_j, \quad \lambda y_i + (1 - \lambda) y_j$$

    with $\lambda \sim \mathrm{Beta}(\alpha, \alpha)$ and j a random permutation of the present examples. Train with
    `soft_cross_entropy(logits, targets)`.

    Args:
        key: PRNG key.
        inputs: [N, ...], floating.
        targets: [N, C], dense targets such as one-hot labels, any real dtype.
        alpha: Larger values give more even mixtures, 0 in the limit none.
        per: "batch" draws one ratio per batch, as the paper's code; "example" one per example.
        where: [N], boolean; masked examples are not mixed.

    Returns:
        `Mixed`: inputs, targets, partners and ratios.

    Example:
        The targets still sum to one.

        >>> out = mixup(jax.random.key(0), jnp.ones((4, 2)), jnp.eye(4))
        >>> print(out.inputs.shape, out.targets.sum(-1))
        (4, 2) [1. 1. 1. 1.]

    Conventions:
        The paper uses alpha 0.1 to 0.4 on ImageNet and 1 on CIFAR. Cross-entropy is linear in the target, so the loss
        on mixed targets is the mixture of losses in the authors' code. timm pairs examples with the reversed batch.

    References:
        Zhang et al. 2018, arXiv:1710.09412.
    """
    where = _check(inputs, targets, where)
    pair_key, ratio_key = jax.random.split(key)
    dtype = accumulation_dtype(inputs, targets)
    partners = _partners(pair_key, inputs.shape[0], where)
    ratios = _ratios(ratio_key, inputs.shape[0], alpha, per, dtype)
    x = keep_rows(where, inputs).astype(dtype)
    share = ratios.reshape((-1,) + (1,) * (x.ndim - 1))
    return Mixed(
        share * x + (1 - share) * x[partners], _mixed_targets(targets, where, partners, ratios), partners, ratios
    )


@loss(static=("per",), alpha=positive, per=one_of("batch", "example"))
def cutmix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    *,
    alpha: float | jax.Array = 1.0,
    per: str = "batch",
    where: jax.Array | None = None,
) -> Mixed:
    r"""CutMix: replaces a box of each image by another image's, and mixes the targets by area.

    The box has a fraction $\sqrt{1 - \lambda}$ of both sides, $\lambda \sim \mathrm{Beta}(\alpha, \alpha)$, around a
    uniformly drawn pixel, and is clipped at the borders; $\lambda$ becomes the fraction of unreplaced pixels.

    Args:
        key: PRNG key.
        images: [N, H, W, C], floating.
        targets: [N, classes], dense targets such as one-hot labels, any real dtype.
        alpha: Parameter of the beta distribution; 1 is uniform.
        per: "batch" draws one box per batch, as the paper's code; "example" one per example.
        where: [N], boolean; masked examples are not mixed.

    Returns:
        `Mixed`: images, targets, partners and ratios.

    Example:
        The targets still sum to one.

        >>> out = cutmix(jax.random.key(0), jnp.ones((4, 8, 8, 3)), jnp.eye(4))
        >>> print(out.inputs.shape, out.targets.sum(-1))
        (4, 8, 8, 3) [1. 1. 1. 1.]

    Conventions:
        The sides are rounded down to whole pixels and halved, as in the authors' code, so boxes in small images are
        slightly smaller than drawn; the ratio counts pixels, unlike in the first version of that code.

    References:
        Yun et al. 2019, arXiv:1905.04899.
    """
    check_array("images", images)
    check_rank("images", images, 4, "[examples, height, width, channels]")
    where = _check(images, targets, where)
    pair_key, ratio_key, row_key, column_key = jax.random.split(key, 4)
    count, dtype = images.shape[0], accumulation_dtype(images, targets)
    partners = _partners(pair_key, count, where)
    cut = jnp.sqrt(1 - _ratios(ratio_key, count, alpha, per, dtype))
    in_rows = _span(row_key, images.shape[1], cut, per)
    in_columns = _span(column_key, images.shape[2], cut, per)
    box = in_rows[:, :, None] & in_columns[:, None, :]
    ratios = 1 - jnp.mean(box.astype(dtype), axis=(1, 2)) if box.size else jnp.ones(count, dtype)
    x = keep_rows(where, images).astype(dtype)
    mixed = jnp.where(box[..., None], x[partners], x)
    return Mixed(mixed, _mixed_targets(targets, where, partners, ratios), partners, ratios)


def _check(inputs: jax.Array, targets: jax.Array, where: jax.Array | None) -> jax.Array | None:
    check_array("inputs", inputs)
    check_array("targets", targets, "real")
    if inputs.ndim == 0:
        raise ValueError("inputs must have a first axis of examples, got a scalar")
    check_rank("targets", targets, 2, "[examples, classes]")
    check_shape("targets", targets, (inputs.shape[0], targets.shape[1]), "of the examples of inputs")
    return check_where(where, inputs.shape[:1])


def _partners(key: jax.Array, count: int, where: jax.Array | None) -> jax.Array:
    """A random permutation of the present examples; masked ones are their own partners."""
    present = jnp.ones(count, bool) if where is None else where
    in_order = jnp.argsort(~present, stable=True)
    shuffled = jnp.argsort(jnp.where(present, jax.random.uniform(key, (count,), jnp.float32), jnp.inf), stable=True)
    partners = jnp.zeros(count, in_order.dtype).at[in_order].set(shuffled)
    return jnp.where(present, partners, jnp.arange(count, dtype=in_order.dtype))


def _ratios(key: jax.Array, count: int, alpha: float | jax.Array, per: str, dtype: jnp.dtype) -> jax.Array:
    # Drawn in float32, so that a key gives the same ratios in any dtype.
    alpha, shape = as_scalar(alpha, jnp.dtype(jnp.float32)), (1 if per == "batch" else count,)
    return jnp.broadcast_to(jax.random.beta(key, alpha, alpha, shape, jnp.float32).astype(dtype), (count,))


def _span(key: jax.Array, size: int, cut: jax.Array, per: str) -> jax.Array:
    """[N, size], which positions lie within half of `cut * size` of a random one."""
    centre = jax.random.randint(key, (1 if per == "batch" else cut.shape[0], 1), 0, max(size, 1), jnp.int32)
    half = jnp.floor(cut * size).astype(jnp.int32)[:, None] // 2
    offset = jnp.arange(size)[None] - centre
    return (offset >= -half) & (offset < half)


def _mixed_targets(targets: jax.Array, where: jax.Array | None, partners: jax.Array, ratios: jax.Array) -> jax.Array:
    y = keep_rows(where, targets).astype(ratios.dtype)
    return ratios[:, None] * y + (1 - ratios[:, None]) * y[partners]
