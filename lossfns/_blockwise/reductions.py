"""Reductions of a block's scores: their state between blocks, results and cotangents.

A block function returns reductions. The passes over the table call, for each of them,

    initial_state -> merge, once a block -> final_result -> combine_devices, if the columns are sharded
    scores_cotangent, once a block of the backward pass

Log-sums are online: a running maximum, and sums relative to it, rescaled when it grows (Milakov and Gimelshein 2018,
arXiv:1805.02867). If no exponential can overflow they need neither, see `with_or_without_shift`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._blockwise.blocks import get_at, set_at
from lossfns._blockwise.pytrees import PyTree, vary_together

T = TypeVar("T")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogSum:
    """Scores [C, N] -> log-sum-exp over all columns, [N]; -inf without a finite score."""

    scores: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShiftedLogSum(LogSum):
    """Like `LogSum`, in two parts, for losses that subtract a score, which would cancel if both are large."""


class Shifted(NamedTuple):
    """The result of `ShiftedLogSum`, two terms [N] that add up to the log-sum. The shift has no derivative."""

    log_sum: jax.Array
    shift: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SoftmaxMean:
    """Scores and terms [C, N] -> `Moments`: log-sum of the scores, and mean of the terms under their softmax.

    Terms must be finite at scores of -inf, where they have no weight.
    """

    scores: jax.Array
    terms: jax.Array


class Moments(NamedTuple):
    """The result of `SoftmaxMean`, [N] each."""

    log_sum: jax.Array
    mean: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum:
    """Terms [C, N] -> their sum over all columns, [N]."""

    terms: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ColumnLogSum:
    """Scores [C, N] -> log-sum-exp over all rows, one per column, [M]."""

    scores: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ColumnSum:
    """Terms [C, N] -> their sum over all rows, one per column, [M]."""

    terms: jax.Array


Reduction: TypeAlias = LogSum | SoftmaxMean | Sum | ColumnLogSum | ColumnSum
"""A reduction of a block, or its kind, with shapes instead of arrays."""

Result: TypeAlias = jax.Array | Shifted | Moments
"""The result of a reduction over the table, or its cotangent."""


class RunningLogSum(NamedTuple):
    """The state of a log-sum: sums of exponentials relative to the maximum so far."""

    maximum: jax.Array
    total: jax.Array
    """Sum of exp(score - maximum)."""
    weighted: jax.Array | None = None
    """Sum of exp(score - maximum) * term, for `SoftmaxMean`."""


State: TypeAlias = jax.Array | RunningLogSum
"""The running sum of a `Sum` or `ColumnSum`, or the state of a log-sum."""


class Position(NamedTuple):
    """Position of a block in the table."""

    column: jax.Array
    """Index of its first column."""
    row: jax.Array
    """Index of its first row."""
    first_visit: jax.Array | None
    """Mask of the scores not in previous blocks, broadcastable; None for all."""

    def axis_and_start(self, x: Reduction) -> tuple[int, jax.Array]:
        """The axis of the scores that a reduction sums over, and the start of its results."""
        return (1, self.column) if is_per_column(x) else (0, self.row)

    def masked(self, x: jax.Array, fill: float) -> jax.Array:
        """`x` with `fill` at scores of previous blocks."""
        return x if self.first_visit is None else jnp.where(self.first_visit, x, fill)


def is_reduction(x: object) -> bool:
    """Whether `x` is a leaf of the pytree that a block function returns."""
    return isinstance(x, Reduction)


def is_per_column(x: Reduction) -> bool:
    """Whether it has one result per column rather than per row."""
    return isinstance(x, ColumnLogSum | ColumnSum)


def zero_if_infinite(x: jax.Array) -> jax.Array:
    """A shift that can be subtracted: 0 instead of infinity."""
    return jnp.where(jnp.isinf(x), 0, x)


def exp_cannot_overflow(bound: jax.Array | float, dtype: jnp.dtype) -> jax.Array:
    """Whether scores of at most this magnitude need no shift: neither exponentials nor quotients of two overflow."""
    fits: jax.Array = lax.stop_gradient(jnp.asarray(bound)) <= math.log(float(jnp.finfo(dtype).max)) / 2
    return fits


def with_or_without_shift(unshifted_ok: jax.Array | None, function: Callable[..., T], *operands: PyTree) -> T:
    """Chooses the form of the log-sums at run time.

    Args:
        unshifted_ok: Whether exponentials of unshifted scores are safe; None if the scores have no known bound.
        function: `function(unshifted_ok, *operands)`; with None it must shift scores by their maximum.
        *operands: The differentiated arguments.
    """
    if unshifted_ok is None:
        return function(None, *operands)
    # Marked together: otherwise the two branches would vary over different axes under `shard_map`.
    unshifted_ok, operands = vary_together((unshifted_ok, operands))
    unshifted, shifted = functools.partial(function, unshifted_ok), functools.partial(function, None)
    result: T = lax.cond(unshifted_ok, unshifted, shifted, *operands)
    return result


def unshifted_exp(scores: jax.Array, unshifted_ok: jax.Array) -> jax.Array:
    """exp(scores), or 1 when unsafe: under `vmap` both branches execute, and the unused one must not overflow."""
    return jnp.exp(jnp.where(unshifted_ok, scores, 0))


def initial_state(kind: Reduction, columns: int) -> State:
    """The state before the first block of a table with this many columns."""
    leaf = jax.tree.leaves(kind)[0]
    zeros = jnp.zeros(columns if is_per_column(kind) else leaf.shape[1], leaf.dtype)
    if isinstance(kind, Sum | ColumnSum):
        return zeros
    return RunningLogSum(jnp.full_like(zeros, -jnp.inf), zeros, zeros if isinstance(kind, SoftmaxMean) else None)


def merge(x: Reduction, state: State, position: Position, unshifted_ok: jax.Array | None = None) -> State:
    """The state after one more block; `unshifted_ok` as in `with_or_without_shift`."""
    axis, start = position.axis_and_start(x)
    size = jax.tree.leaves(x)[0].shape[1 - axis]
    before = jax.tree.map(lambda s: get_at(s, start, size), state)
    after = _merged(x, before, axis, position, unshifted_ok)
    merged: State = jax.tree.map(lambda s, part: set_at(s, part, start), state, after)
    return merged


def _merged(x: Reduction, state: State, axis: int, position: Position, unshifted_ok: jax.Array | None) -> State:
    if isinstance(x, Sum | ColumnSum):
        return cast(jax.Array, state) + jnp.sum(position.masked(x.terms, 0), axis)
    before, total, weighted = cast(RunningLogSum, state)
    scores = position.masked(x.scores, -jnp.inf)
    if unshifted_ok is not None and type(x) in (LogSum, ColumnLogSum):
        return RunningLogSum(jnp.zeros_like(before), total + jnp.sum(unshifted_exp(scores, unshifted_ok), axis))
    maximum = lax.stop_gradient(jnp.maximum(before, jnp.max(scores, axis)))
    shift = zero_if_infinite(maximum)
    powers = jnp.exp(scores - jnp.expand_dims(shift, axis))
    added = [jnp.sum(powers, axis)]
    if isinstance(x, SoftmaxMean):
        added.append(jnp.sum(powers * x.terms, axis))
    rescale = jnp.exp(before - shift)
    sums = [total] if weighted is None else [total, weighted]
    return RunningLogSum(maximum, *(s * rescale + more for s, more in zip(sums, added, strict=True)))


def final_result(kind: Reduction, state: State) -> Result:
    """The result after the last block."""
    if not isinstance(state, RunningLogSum):
        return state
    maximum, total, weighted = state
    if isinstance(kind, ShiftedLogSum):
        return Shifted(jnp.log(total), zero_if_infinite(maximum))
    log_sum = zero_if_infinite(maximum) + jnp.log(total)
    if weighted is None:
        return log_sum
    return Moments(log_sum, jnp.where(total == 0, 0, weighted / jnp.where(total == 0, 1, total)))


def scores_cotangent(
    x: Reduction, result: Result | None, cotangent: Result, position: Position, unshifted_ok: jax.Array | None = None
) -> Reduction:
    """The cotangents of the scores and terms of a block.

    Unshifted scores have the same exponentials in all reductions, which XLA computes once.

    Args:
        x: The reduction of the block.
        result: Its result over the table; unused for a sum.
        cotangent: Cotangent of that result.
        position: Position of the block.
        unshifted_ok: As in `with_or_without_shift`.
    """
    axis, start = position.axis_and_start(x)
    size = jax.tree.leaves(x)[0].shape[1 - axis]
    # Result z and its cotangent g, broadcastable with the scores.
    z, g = jax.tree.map(lambda v: jnp.expand_dims(get_at(v, start, size), axis), (result, cotangent))
    if isinstance(x, Sum | ColumnSum):
        return type(x)(position.masked(jnp.broadcast_to(g, x.terms.shape), 0))
    if isinstance(x, SoftmaxMean):
        softmax = position.masked(jnp.exp(x.scores - zero_if_infinite(z.log_sum)), 0)
        return SoftmaxMean(softmax * (g.log_sum + g.mean * (x.terms - z.mean)), softmax * g.mean)
    if isinstance(x, ShiftedLogSum):
        # Shifted in two steps like the value, to keep precision near p = 1.
        powers, g = jnp.exp((x.scores - z.shift) - zero_if_infinite(z.log_sum)), g.log_sum
    elif unshifted_ok is not None:
        powers = unshifted_exp(x.scores, unshifted_ok)
        g = g * unshifted_exp(-zero_if_infinite(z), unshifted_ok)
    else:
        powers = jnp.exp(x.scores - zero_if_infinite(z))
    return type(x)(position.masked(g * powers, 0))


def combine_devices(kind: Reduction, result: Result, axis_name: str | tuple[str, ...]) -> Result:
    """Combines the results of each device's columns over all devices."""
    if is_per_column(kind):
        return result
    if isinstance(kind, Sum):
        total: jax.Array = lax.psum(result, axis_name)
        return total
    if isinstance(result, Shifted):
        shift = zero_if_infinite(lax.pmax(jnp.where(result.log_sum == -jnp.inf, -jnp.inf, result.shift), axis_name))
        return Shifted(jnp.log(lax.psum(jnp.exp(result.log_sum + (result.shift - shift)), axis_name)), shift)
    log_sum = result.log_sum if isinstance(result, Moments) else result
    shift = zero_if_infinite(lax.pmax(lax.stop_gradient(log_sum), axis_name))
    powers = jnp.exp(log_sum - shift)
    total = lax.psum(powers, axis_name)
    log_total = shift + jnp.log(total)
    if not isinstance(result, Moments):
        return log_total
    return Moments(log_total, lax.psum(powers * result.mean, axis_name) / jnp.where(total == 0, 1, total))
