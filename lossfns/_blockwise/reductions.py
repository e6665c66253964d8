"""What becomes of the scores of a block: five kinds of sums, their states from block to block, their cotangents."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._blockwise.trees import get_at, set_at, vary_alike


class Reduction:
    """What becomes of the scores of a block; see the subclasses."""


def _reduction(cls: type) -> type:
    fields = [field.name for field in dataclasses.fields(cls)]
    return jax.tree_util.register_dataclass(cls, data_fields=fields, meta_fields=[])


def is_reduction(x: Any) -> bool:
    """Where the pytree of a block ends."""
    return isinstance(x, Reduction)


@_reduction
@dataclasses.dataclass(frozen=True)
class LogSum(Reduction):
    """Scores [C, N] -> log of the sum of their exponentials over all columns, [N]; -inf where there is none."""

    scores: jax.Array


@_reduction
@dataclasses.dataclass(frozen=True)
class ShiftedLogSum(LogSum):
    """As `LogSum`, in two parts: for losses that subtract a score from it, which loses digits if both are large."""


class Shifted(NamedTuple):
    """The result of `ShiftedLogSum`, both [N]: the parts of that of `LogSum`. To derivatives the shift is constant."""

    log_sum: jax.Array
    shift: jax.Array


@_reduction
@dataclasses.dataclass(frozen=True)
class Mean(Reduction):
    """Scores and terms [C, N] -> `Moments`: as `LogSum`, and the mean of the terms under the softmax of the scores.

    A term must be finite where its score is -inf, and counts nothing there.
    """

    scores: jax.Array
    terms: jax.Array


class Moments(NamedTuple):
    """The result of `Mean`, both [N]."""

    log_sum: jax.Array
    mean: jax.Array


@_reduction
@dataclasses.dataclass(frozen=True)
class Sum(Reduction):
    """Terms [C, N] -> their sum over all columns, [N]."""

    terms: jax.Array


@_reduction
@dataclasses.dataclass(frozen=True)
class ColumnLogSum(Reduction):
    """Scores [C, N] -> log of the sum of their exponentials over all rows, one for each column, [M]."""

    scores: jax.Array


@_reduction
@dataclasses.dataclass(frozen=True)
class ColumnSum(Reduction):
    """Terms [C, N] -> their sum over all rows, [M]."""

    terms: jax.Array


class Tile(NamedTuple):
    """Where in the table the scores of a block are."""

    column: jax.Array
    row: jax.Array
    fresh: jax.Array | None
    """Which of the scores no block before had, ready to broadcast; None for all."""

    def of(self, x: Any) -> tuple[int, jax.Array]:
        """The axis that a reduction sums over, and the place of what comes of it."""
        return (1, self.column) if isinstance(x, ColumnLogSum | ColumnSum) else (0, self.row)

    def masked(self, x: jax.Array, fill: float) -> jax.Array:
        return x if self.fresh is None else jnp.where(self.fresh, x, fill)


def finite(x: jax.Array) -> jax.Array:
    """0 in place of an infinity, to be subtracted."""
    return jnp.where(jnp.isinf(x), 0, x)


def are_small(bound: Any, dtype: Any) -> jax.Array:
    """Whether scores of at most this size need no shift: neither exponentials nor quotients of two overflow."""
    return lax.stop_gradient(jnp.asarray(bound)) <= math.log(float(jnp.finfo(dtype).max)) / 2


def by_size(small: jax.Array | None, function: Any, *given: Any) -> Any:
    """`function(small, *given)` where the scores are small, `function(None, *given)` where not, or not known to be."""
    if small is None:
        return function(None, *given)
    # The operand is marked like the rest, or the two branches would not return alike under `shard_map`.
    small, given = vary_alike((small, given))
    return lax.cond(small, functools.partial(function, small), functools.partial(function, None), *given)


def unshifted(scores: jax.Array, small: jax.Array) -> jax.Array:
    """The exponentials of small scores; 1 where they are not, for nobody to use: under `vmap` both branches are run."""
    return jnp.exp(jnp.where(small, scores, 0))


def initial(kind: Any, count: int) -> Any:
    """The state before the first block; `count` columns."""
    leaf = jax.tree.leaves(kind)[0]
    zeros = jnp.zeros(count if isinstance(kind, ColumnLogSum | ColumnSum) else leaf.shape[1], leaf.dtype)
    if isinstance(kind, Sum | ColumnSum):
        return zeros
    return (jnp.full_like(zeros, -jnp.inf), *(zeros for _ in jax.tree.leaves(kind)))


def merge(x: Any, state: Any, tile: Tile, small: jax.Array | None = None) -> Any:
    """The state after one more block; `small` as of `by_size`."""
    axis, start = tile.of(x)
    size = jax.tree.leaves(x)[0].shape[1 - axis]
    merged = _merged(x, jax.tree.map(lambda s: get_at(s, start, size), state), axis, tile, small)
    return jax.tree.map(lambda s, part: set_at(s, part, start), state, merged)


def _merged(x: Any, state: Any, axis: int, tile: Tile, small: jax.Array | None) -> Any:
    if isinstance(x, Sum | ColumnSum):
        return state + jnp.sum(tile.masked(x.terms, 0), axis)
    before, *sums = state
    scores = tile.masked(x.scores, -jnp.inf)
    if small is not None and type(x) in (LogSum, ColumnLogSum):
        return jnp.zeros_like(before), sums[0] + jnp.sum(unshifted(scores, small), axis)
    top = lax.stop_gradient(jnp.maximum(before, jnp.max(scores, axis)))
    shift = finite(top)
    powers = jnp.exp(scores - jnp.expand_dims(shift, axis))
    added = [jnp.sum(powers, axis)]
    if isinstance(x, Mean):
        added.append(jnp.sum(powers * x.terms, axis))
    fade = jnp.exp(before - shift)
    return (top, *(s * fade + more for s, more in zip(sums, added, strict=True)))


def result(kind: Any, state: Any) -> Any:
    if isinstance(kind, ShiftedLogSum):
        return Shifted(jnp.log(state[1]), finite(state[0]))
    if isinstance(kind, LogSum | ColumnLogSum):
        return finite(state[0]) + jnp.log(state[1])
    if isinstance(kind, Mean):
        top, total, weighted = state
        return Moments(
            finite(top) + jnp.log(total), jnp.where(total == 0, 0, weighted / jnp.where(total == 0, 1, total))
        )
    return state


def slope_of(x: Any, result: Any, slope: Any, tile: Tile, small: jax.Array | None = None) -> Any:
    """The cotangents of a block, given the final result and its cotangent; `small` as of `by_size`.

    Small scores have the same exponentials in every reduction, which XLA then makes once.
    """
    axis, start = tile.of(x)
    size = jax.tree.leaves(x)[0].shape[1 - axis]
    result, slope = jax.tree.map(lambda v: jnp.expand_dims(get_at(v, start, size), axis), (result, slope))
    if isinstance(x, Sum | ColumnSum):
        return type(x)(tile.masked(jnp.broadcast_to(slope, x.terms.shape), 0))
    if isinstance(x, Mean):
        share = tile.masked(jnp.exp(x.scores - finite(result.log_sum)), 0)
        return Mean(share * (slope.log_sum + slope.mean * (x.terms - result.mean)), share * slope.mean)
    if isinstance(x, ShiftedLogSum):
        # Shifted in two steps, as the value is: near p = 1 the digits of the small part count.
        powers, slope = jnp.exp((x.scores - result.shift) - finite(result.log_sum)), slope.log_sum
    elif small is not None:
        powers, slope = unshifted(x.scores, small), slope * unshifted(-finite(result), small)
    else:
        powers = jnp.exp(x.scores - finite(result))
    return type(x)(tile.masked(slope * powers, 0))


def across(kind: Any, result: Any, axis_name: Any) -> Any:
    """The result over the columns of all devices, from those over the columns of each."""
    if isinstance(kind, ColumnLogSum | ColumnSum):
        return result
    if isinstance(kind, Sum):
        return lax.psum(result, axis_name)
    if isinstance(kind, ShiftedLogSum):
        shift = finite(lax.pmax(jnp.where(result.log_sum == -jnp.inf, -jnp.inf, result.shift), axis_name))
        return Shifted(jnp.log(lax.psum(jnp.exp(result.log_sum + (result.shift - shift)), axis_name)), shift)
    log_sum = result.log_sum if isinstance(kind, Mean) else result
    shift = finite(lax.pmax(lax.stop_gradient(log_sum), axis_name))
    powers = jnp.exp(log_sum - shift)
    total = lax.psum(powers, axis_name)
    log_total = shift + jnp.log(total)
    if isinstance(kind, LogSum):
        return log_total
    return Moments(log_total, lax.psum(powers * result.mean, axis_name) / jnp.where(total == 0, 1, total))
