"""What becomes of the scores of a block: five kinds of sums, their states from block to block, their cotangents."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._blockwise.trees import set_at, vary_alike


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
    """Terms [C, N] -> their sum over all rows, [M]; or [C], already one for each column of the block."""

    terms: jax.Array


def _masked(x: jax.Array, fresh: jax.Array | None, fill: float) -> jax.Array:
    return x if fresh is None else jnp.where(fresh.reshape(-1, *(1,) * (x.ndim - 1)), x, fill)


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
    """The state before the first block."""
    leaf = jax.tree.leaves(kind)[0]
    if isinstance(kind, ColumnLogSum | ColumnSum):
        return jnp.zeros(count, leaf.dtype)
    zeros = jnp.zeros(leaf.shape[1:], leaf.dtype)
    if isinstance(kind, Sum):
        return zeros
    return (jnp.full_like(zeros, -jnp.inf), *(zeros for _ in jax.tree.leaves(kind)))


def merge(x: Any, state: Any, index: jax.Array, fresh: jax.Array | None, small: jax.Array | None = None) -> Any:
    """The state after one more block; `small` as of `by_size`."""
    if isinstance(x, Sum):
        return state + jnp.sum(_masked(x.terms, fresh, 0), axis=0)
    if isinstance(x, ColumnSum):
        return set_at(state, x.terms if x.terms.ndim == 1 else jnp.sum(x.terms, axis=1), index[0])
    if isinstance(x, ColumnLogSum):
        if small is not None:
            return set_at(state, jnp.log(jnp.sum(unshifted(x.scores, small), axis=1)), index[0])
        return set_at(state, log_sum(x.scores, axis=1), index[0])
    scores = _masked(x.scores, fresh, -jnp.inf)
    if small is not None and type(x) is LogSum:
        return jnp.zeros_like(state[0]), state[1] + jnp.sum(unshifted(scores, small), axis=0)
    before, *sums = state
    top = lax.stop_gradient(jnp.maximum(before, jnp.max(scores, axis=0)))
    shift = finite(top)
    powers = jnp.exp(scores - shift[None])
    added = [jnp.sum(powers, axis=0)]
    if isinstance(x, Mean):
        added.append(jnp.sum(powers * x.terms, axis=0))
    fade = jnp.exp(before - shift)
    return (top, *(s * fade + more for s, more in zip(sums, added, strict=True)))


def result(kind: Any, state: Any) -> Any:
    if isinstance(kind, ShiftedLogSum):
        return Shifted(jnp.log(state[1]), finite(state[0]))
    if isinstance(kind, LogSum):
        return finite(state[0]) + jnp.log(state[1])
    if isinstance(kind, Mean):
        top, total, weighted = state
        return Moments(
            finite(top) + jnp.log(total), jnp.where(total == 0, 0, weighted / jnp.where(total == 0, 1, total))
        )
    return state


def slope_of(
    x: Any, result: Any, slope: Any, index: jax.Array, fresh: jax.Array | None, small: jax.Array | None = None
) -> Any:
    """The cotangents of a block, given the final result and its cotangent; `small` as of `by_size`.

    Small scores have the same exponentials in every reduction, which XLA then makes once.
    """
    if isinstance(x, Sum):
        return Sum(_masked(jnp.broadcast_to(slope, x.terms.shape), fresh, 0))
    if isinstance(x, ColumnLogSum | ColumnSum):
        slope = _masked(lax.dynamic_slice_in_dim(slope, index[0], len(index)), fresh, 0)
        if isinstance(x, ColumnSum):
            return ColumnSum(slope if x.terms.ndim == 1 else jnp.broadcast_to(slope[:, None], x.terms.shape))
        total = finite(lax.dynamic_slice_in_dim(result, index[0], len(index)))
        if small is not None:
            return ColumnLogSum(unshifted(x.scores, small) * (slope * unshifted(-total, small))[:, None])
        return ColumnLogSum(slope[:, None] * jnp.exp(x.scores - total[:, None]))
    if isinstance(x, ShiftedLogSum):
        # Shifted in two steps, as the value is: near p = 1 the digits of the small part count.
        powers = jnp.exp((x.scores - result.shift[None]) - finite(result.log_sum)[None])
        return ShiftedLogSum(slope.log_sum[None] * _masked(powers, fresh, 0))
    if isinstance(x, LogSum) and small is not None:
        return LogSum(_masked(unshifted(x.scores, small) * (slope * unshifted(-finite(result), small))[None], fresh, 0))
    if isinstance(x, LogSum):
        return LogSum(slope[None] * _masked(jnp.exp(x.scores - finite(result)[None]), fresh, 0))
    share = _masked(jnp.exp(x.scores - finite(result.log_sum)[None]), fresh, 0)
    mean = slope.mean[None]
    return Mean(share * (slope.log_sum[None] + mean * (x.terms - result.mean[None])), share * mean)


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


def log_sum(scores: jax.Array, axis: int) -> jax.Array:
    """Log of the sum of exponentials over an axis that is there entire; -inf where all are."""
    shift = finite(lax.stop_gradient(jnp.max(scores, axis=axis, keepdims=True, initial=-jnp.inf)))
    return jnp.squeeze(shift, axis) + jnp.log(jnp.sum(jnp.exp(scores - shift), axis=axis))
