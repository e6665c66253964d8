"""Box overlap losses: IoU, and its extensions to disjoint boxes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lossfns._contract import (
    loss,
    one_of,
    prepare,
    zero_masked,
)

_layout = one_of("corners", "centre")


@loss(static=("layout",), layout=_layout)
def iou(
    predictions: jax.Array, targets: jax.Array, *, layout: str = "corners", where: jax.Array | None = None
) -> jax.Array:
    r"""IoU loss: 1 - the intersection over union of two boxes.

    $$1 - \frac{|A \cap B|}{|A \cup B|}$$

    Args:
        predictions: [..., 4], boxes, floating.
        targets: [..., 4], the same shape, any real dtype.
        layout: "corners" for x1, y1, x2, y2 with x1 <= x2 and y1 <= y2; "centre" for centre x, centre y, width, height.
        where: [...], boolean; False excludes the pair of boxes.

    Returns:
        [...], from 0 to 1. Boxes of area 0 cost 1. A box with x2 < x1 or y2 < y1 gives NaN.

    Example:
        The left half of a square of side 2.

        >>> print(iou(jnp.array([[0.0, 0.0, 1.0, 2.0]]), jnp.array([[0.0, 0.0, 2.0, 2.0]])))
        [0.5]

    Conventions:
        UnitBox has the negative logarithm instead. torchvision adds 1e-7 to denominators. Disjoint boxes have gradient
        0, unlike in `giou`, `diou` and `ciou`.

    References:
        Yu et al. 2016, arXiv:1608.01471 (UnitBox). Rezatofighi et al. 2019, arXiv:1902.09630.
    """
    pair, where = _check(predictions, targets, layout, where)
    return zero_masked(where, _overlap_cost(pair))


@loss(static=("layout",), layout=_layout)
def giou(
    predictions: jax.Array, targets: jax.Array, *, layout: str = "corners", where: jax.Array | None = None
) -> jax.Array:
    r"""Generalised IoU loss: 1 - IoU, plus the uncovered fraction of the enclosing box $C$.

    $$1 - \frac{|A \cap B|}{|A \cup B|} + \frac{|C \setminus (A \cup B)|}{|C|}$$

    Args:
        predictions: [..., 4], boxes, floating.
        targets: [..., 4], the same shape, any real dtype.
        layout: "corners" for x1, y1, x2, y2 with x1 <= x2 and y1 <= y2; "centre" for centre x, centre y, width, height.
        where: [...], boolean; False excludes the pair of boxes.

    Returns:
        [...], from 0 to 2. If the enclosing box has area 0, the fraction is 0. A box with x2 < x1 or y2 < y1 gives NaN.

    Example:
        Unit squares with a gap of 1 between them: no overlap, and a third of the enclosing box is empty.

        >>> print(giou(jnp.array([[0.0, 0.0, 1.0, 1.0]]), jnp.array([[2.0, 0.0, 3.0, 1.0]])).round(4))
        [1.3333]

    References:
        Rezatofighi et al. 2019, arXiv:1902.09630.
    """
    pair, where = _check(predictions, targets, layout, where)
    return zero_masked(where, generalized_cost(pair))


@loss(static=("layout",), layout=_layout)
def diou(
    predictions: jax.Array, targets: jax.Array, *, layout: str = "corners", where: jax.Array | None = None
) -> jax.Array:
    r"""Distance IoU loss: 1 - IoU, plus the squared distance of the centres over the squared enclosing diagonal.

    $$1 - \frac{|A \cap B|}{|A \cup B|} + \frac{\rho^2}{c^2}$$

    with $\rho$ the distance of the centres and $c$ the diagonal of the smallest box around both.

    Args:
        predictions: [..., 4], boxes, floating.
        targets: [..., 4], the same shape, any real dtype.
        layout: "corners" for x1, y1, x2, y2 with x1 <= x2 and y1 <= y2; "centre" for centre x, centre y, width, height.
        where: [...], boolean; False excludes the pair of boxes.

    Returns:
        [...], from 0 to 2. Two coinciding points have distance 0. A box with x2 < x1 or y2 < y1 gives NaN.

    Example:
        Unit squares with a gap of 1: centres 2 apart, and a diagonal of 3 by 1, so 1 + 4/10.

        >>> print(diou(jnp.array([[0.0, 0.0, 1.0, 1.0]]), jnp.array([[2.0, 0.0, 3.0, 1.0]])).round(4))
        [1.4]

    References:
        Zheng et al. 2020, arXiv:1911.08287.
    """
    pair, where = _check(predictions, targets, layout, where)
    return zero_masked(where, _overlap_cost(pair) + _distance_cost(pair))


@loss(static=("layout",), layout=_layout)
def ciou(
    predictions: jax.Array, targets: jax.Array, *, layout: str = "corners", where: jax.Array | None = None
) -> jax.Array:
    r"""Complete IoU loss: `diou` plus a penalty on different aspect ratios.

    $$\mathrm{DIoU} + \alpha v, \quad
    v = \frac{4}{\pi^2} \left(\arctan\frac{w}{h} - \arctan\frac{w'}{h'}\right)^2, \quad
    \alpha = \frac{v}{(1 - \mathrm{IoU}) + v}$$

    The weight $\alpha$ has no gradient.

    Args:
        predictions: [..., 4], boxes, floating.
        targets: [..., 4], the same shape, any real dtype.
        layout: "corners" for x1, y1, x2, y2 with x1 <= x2 and y1 <= y2; "centre" for centre x, centre y, width, height.
        where: [...], boolean; False excludes the pair of boxes.

    Returns:
        [...], at least 0. For a point v is 0. A box with x2 < x1 or y2 < y1 gives NaN.

    Example:
        A square in the middle of the top of another twice its side has the same shape, so this is the distance IoU:
        3/4 and 1/4 over 8.

        >>> print(ciou(jnp.array([[0.5, 1.0, 1.5, 2.0]]), jnp.array([[0.0, 0.0, 2.0, 2.0]])))
        [0.78125]

    Conventions:
        The value is torchvision's and the paper's, with the true gradient of v; the paper replaces its factor
        $1 / (w^2 + h^2)$ by 1, and its authors' later code has alpha 0 for an IoU below 1/2. A gradient through alpha,
        as in some code, changes the direction but not the value.

    References:
        Zheng et al. 2020, arXiv:1911.08287.
    """
    pair, where = _check(predictions, targets, layout, where)
    overlap = _overlap_cost(pair)
    v = jnp.square(_angle(pair.a) - _angle(pair.b)) * (4 / np.pi**2)
    v = jnp.where(_is_point(pair.a) | _is_point(pair.b), 0, v)
    alpha = jax.lax.stop_gradient(v / jnp.where(v == 0, 1, overlap + v))
    return zero_masked(where, overlap + _distance_cost(pair) + alpha * v)


class Pair(NamedTuple):
    """Two boxes as corners, NaN if a side is negative, and the sides of the enclosing box.

    Ratios of areas are invariant under stretching an axis, but areas of tiny and huge boxes leave the range of the
    dtype: differences are divided by these sides.
    """

    a: jax.Array
    """[..., 4]"""
    b: jax.Array
    """[..., 4]"""
    scale: jax.Array
    """[..., 2], width and height of the box around both, without a gradient, 1 where they are 0."""


def _check(
    predictions: jax.Array, targets: jax.Array, layout: str, where: jax.Array | None
) -> tuple[Pair, jax.Array | None]:
    where, pair = prepare(where, row_axes=1, others="real", predictions=predictions, targets=targets)
    check_boxes("predictions", predictions)
    return scaled_pair(*(corners(boxes, layout) for boxes in pair)), where


def check_boxes(name: str, boxes: jax.Array) -> None:
    """Raises unless the last axis has four entries."""
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"{name} must have a last axis of 4, got shape {boxes.shape}")


def corners(boxes: jax.Array, layout: str) -> jax.Array:
    """Boxes [..., 4] as x1, y1, x2, y2, all NaN if a side is negative."""
    if layout == "centre":
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        proper = jnp.all(half >= 0, axis=-1, keepdims=True)
        boxes = jnp.concatenate([centre - half, centre + half], axis=-1)
    else:
        proper = jnp.all(boxes[..., 2:] >= boxes[..., :2], axis=-1, keepdims=True)
    return jnp.where(proper, boxes, jnp.nan)


def scaled_pair(a: jax.Array, b: jax.Array) -> Pair:
    """Two boxes and the sides of the enclosing box."""
    hull = jax.lax.stop_gradient(jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2]))
    return Pair(a, b, jnp.where(hull > 0, hull, 1))


def generalized_cost(pair: Pair) -> jax.Array:
    """1 - GIoU of two boxes."""
    union, hull = _areas(pair)[1], jnp.prod(_hull(pair) / pair.scale, axis=-1)
    return _overlap_cost(pair) + jnp.where(hull == 0, 0, (hull - union) / jnp.where(hull == 0, 1, hull))


def _hull(pair: Pair) -> jax.Array:
    return jnp.maximum(pair.a[..., 2:], pair.b[..., 2:]) - jnp.minimum(pair.a[..., :2], pair.b[..., :2])


def _sides(box: jax.Array) -> jax.Array:
    return box[..., 2:] - box[..., :2]


def _areas(pair: Pair) -> tuple[jax.Array, jax.Array]:
    """Areas of intersection and union."""
    a, b, scale = pair
    shared = (jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])) / scale
    apart = jnp.any(shared <= 0, axis=-1)
    intersection = jnp.where(apart, 0, jnp.prod(jnp.where(apart[..., None], 0, shared), axis=-1))
    areas = [jnp.prod(_sides(box) / scale, axis=-1) for box in (a, b)]
    return intersection, areas[0] + areas[1] - intersection


def _overlap_cost(pair: Pair) -> jax.Array:
    intersection, union = _areas(pair)
    # Boxes with almost no union relative to the enclosing box are crossing lines: their overlap is 0.
    nothing = (intersection == 0) | (union < 1e-18)
    cost = (union - intersection) / jnp.where(nothing, 1, union)
    return jnp.where(jnp.isnan(union), jnp.nan, jnp.where(nothing, 1, cost))


def _distance_cost(pair: Pair) -> jax.Array:
    a, b, _ = pair
    longest = jax.lax.stop_gradient(jnp.max(_hull(pair), axis=-1, keepdims=True))
    longest = jnp.where(longest > 0, longest, 1)
    between = ((a[..., :2] - b[..., :2]) + (a[..., 2:] - b[..., 2:])) / 2 / longest
    diagonal = jnp.sum(jnp.square(_hull(pair) / longest), axis=-1)
    return jnp.where(diagonal == 0, 0, jnp.sum(jnp.square(between), axis=-1) / jnp.where(diagonal == 0, 1, diagonal))


def _angle(box: jax.Array) -> jax.Array:
    """The angle of the diagonal; 0 for a point."""
    sides = _sides(box)
    longest = jax.lax.stop_gradient(jnp.max(sides, axis=-1, keepdims=True))
    width, height = jnp.moveaxis(sides / jnp.where(longest > 0, longest, 1), -1, 0)
    return jnp.arctan2(width, jnp.where(_is_point(box), 1, height))


def _is_point(box: jax.Array) -> jax.Array:
    return jnp.all(_sides(box) == 0, axis=-1)
