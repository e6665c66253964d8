"""Soft dynamic time warping."""

import jax
import jax.numpy as jnp

from lossfns._blockwise import map_rows
from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_array,
    check_where,
    flag,
    keep_rows,
    loss,
    nan_where_invalid,
    positive,
    zero_masked,
)
from lossfns._numerics import multiplied
from lossfns._padding import check_present
from lossfns.sequence._lattice import log_sum_of_paths


@loss(static=("divergence",), gamma=positive, divergence=flag)
def soft_dtw(
    predictions: jax.Array,
    targets: jax.Array,
    predictions_where: jax.Array | None = None,
    targets_where: jax.Array | None = None,
    *,
    gamma: float | jax.Array = 1.0,
    divergence: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Soft dynamic time warping: soft minimum over alignments of two series of their summed squared distances.

    $$-\gamma \log \sum_A e^{-\langle A, \Delta \rangle / \gamma}, \quad \Delta_{ij} = \lVert x_i - y_j \rVert^2$$

    An alignment $A$ is a path from (1, 1) to (N, M) by steps down, right and diagonal.

    Args:
        predictions: $x$, [..., N, D].
        targets: $y$, [..., M, D]; the lengths may differ.
        predictions_where: The present steps of $x$: boolean [..., N], or integer lengths [...]; None for all. An
            absent step is skipped, wherever it is.
        targets_where: Present steps of $y$, [..., M] or [...].
        gamma: Smoothing $\gamma$ in units of the squared distance; towards 0 the value tends to dynamic time warping.
        divergence: Whether to subtract half of the values of $(x, x)$ and $(y, y)$, so that equal series have value 0.
        where: [...], boolean; False excludes the example.

    Returns:
        [...], squared units of the inputs; may be negative without `divergence`. inf if only one series is empty, 0 if
        both are. A length out of range gives NaN.

    Example:
        Two equal steps each: all three alignments cost 0, so -log 3.

        >>> print(soft_dtw(jnp.zeros((2, 1)), jnp.zeros((2, 1))).round(4))
        -1.0986

        One step against 1 and 2: a single alignment.

        >>> print(soft_dtw(jnp.zeros((1, 1)), jnp.array([[1.0], [2.0]])))
        5.0

    Conventions:
        The authors' code has the squared Euclidean distance, as here. Values are sums over the alignment: divide by the
        lengths to average series of different lengths.

    References:
        Cuturi and Blondel 2017, arXiv:1703.01541. Blondel et al. 2021, arXiv:2010.08354 (divergence).
    """
    check_array("predictions", predictions)
    check_array("targets", targets)
    if predictions.ndim < 2 or targets.ndim != predictions.ndim:
        raise ValueError(
            f"predictions and targets must both be [..., steps, features], got {predictions.shape} and {targets.shape}"
        )
    *batch, _, features = predictions.shape
    if (*targets.shape[:-2], targets.shape[-1]) != (*batch, features):
        raise ValueError(
            f"targets must have the shape of predictions {predictions.shape} but for the steps, got {targets.shape}"
        )
    where = check_where(where, tuple(batch))
    in_x, valid_x = check_present("predictions_where", predictions_where, predictions.shape[:-1], where)
    in_y, valid_y = check_present("targets_where", targets_where, targets.shape[:-1], where)
    dtype = accumulation_dtype(predictions, targets)
    x = keep_rows(in_x, keep_rows(where, predictions)).astype(dtype)
    y = keep_rows(in_y, keep_rows(where, targets)).astype(dtype)
    soft_minimum = _divergence if divergence else _soft_minimum
    values = soft_minimum(x, y, in_x, in_y, jnp.broadcast_to(as_scalar(gamma, dtype), batch))
    return zero_masked(where, nan_where_invalid(valid_x & valid_y, values))


def _divergence(x: jax.Array, y: jax.Array, in_x: jax.Array, in_y: jax.Array, gamma: jax.Array) -> jax.Array:
    """The value of (x, y) minus half the values of (x, x) and (y, y), one table at a time, padded to one length."""
    length = max(x.shape[-2], y.shape[-2])

    def padded(x: jax.Array, axis: int) -> jax.Array:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, length - x.shape[axis])
        return jnp.pad(x, widths)

    x, y, in_x, in_y = padded(x, -2), padded(y, -2), padded(in_x, -1), padded(in_y, -1)
    pairs = [(x, y, in_x, in_y), (x, x, in_x, in_x), (y, y, in_y, in_y)]
    together = jax.tree.map(lambda *parts: jnp.stack(parts), *pairs)
    across, of_x, of_y = _one_by_one(*together, jnp.stack([gamma] * 3))
    # Both series alone have a finite value, so infinities do not cancel.
    value: jax.Array = across - (of_x + of_y) / 2
    return value


@jax.custom_vjp
def _one_by_one(x: jax.Array, y: jax.Array, in_x: jax.Array, in_y: jax.Array, gamma: jax.Array) -> jax.Array:
    """`_soft_minimum` of each entry of the first axis; computes gradients with the values and stores no table."""
    values: jax.Array = jax.lax.map(lambda one: _soft_minimum(*one), (x, y, in_x, in_y, gamma))
    return values


def _one_by_one_fwd(*given):  # type: ignore[no-untyped-def]
    def with_gradient(one):  # type: ignore[no-untyped-def]
        x, y, in_x, in_y, gamma = one
        value, pull_back = jax.vjp(lambda x, y, gamma: _soft_minimum(x, y, in_x, in_y, gamma), x, y, gamma)
        return value, pull_back(jnp.ones_like(value))

    return jax.lax.map(with_gradient, given)


def _one_by_one_bwd(gradients, cotangent):  # type: ignore[no-untyped-def]
    by_x, by_y, by_gamma = gradients
    return cotangent[..., None, None] * by_x, cotangent[..., None, None] * by_y, None, None, cotangent * by_gamma


_one_by_one.defvjp(_one_by_one_fwd, _one_by_one_bwd)


def _soft_minimum(x: jax.Array, y: jax.Array, in_x: jax.Array, in_y: jax.Array, gamma: jax.Array) -> jax.Array:
    """The grid has a row and a column before the first steps; absent steps cost nothing."""
    # The first row and column are no steps: present, but no move enters them.
    before = [(0, 0)] * (x.ndim - 2) + [(1, 0)]
    row, column = (jnp.pad(present, before, constant_values=True) for present in (in_x, in_y))

    def steps_of(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        some, is_step = part
        # From differences, never all stored: a matrix product would cancel for nearby steps.
        steps = -jnp.sum(jnp.square(some[..., None, :] - y[None]), axis=-1) / gamma[None, ..., None]
        steps = jnp.where(is_step.reshape((-1,) + (1,) * (steps.ndim - 1)), steps, -jnp.inf)
        steps = jnp.pad(steps, [(0, 0), *before], constant_values=-jnp.inf)
        return steps.reshape(len(steps), -1)  # flat: otherwise XLA copies the table to another layout

    rows = jnp.pad(jnp.moveaxis(x, -2, 0), [(1, 0)] + [(0, 0)] * (x.ndim - 1))
    steps = map_rows(steps_of, (rows, jnp.arange(len(rows)) > 0), y.size).reshape(len(rows), *column.shape)
    return multiplied(-log_sum_of_paths(_moves, steps, row, column), gamma)


def _moves(steps: jax.Array, row: jax.Array, column: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    never = jnp.full_like(steps, -jnp.inf)
    down = jnp.where(row, jnp.where(column, steps, never), 0)
    right = jnp.where(row, jnp.where(column, steps, 0), never)
    return down, right, jnp.where(row & column, steps, never)
