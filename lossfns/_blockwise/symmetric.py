"""Symmetric tables: each block off the diagonal serves two."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._blockwise.reductions import are_small, by_size, finite, unshifted
from lossfns._blockwise.sizes import Sizes, of_triangle, on_platform
from lossfns._blockwise.trees import (
    Blocks,
    add_at,
    common_dtype,
    join_gradient,
    set_at,
    split_floats,
    vary_alike,
    widen,
)


def stream_symmetric(
    block: Callable[[Any, Any, Any, jax.Array, jax.Array], jax.Array],
    whole: Any,
    items: Any,
    *,
    block_size: int | None = None,
    bound: Any = None,
) -> jax.Array:
    """Log of the sum of the exponentials of each row of a symmetric table, from the blocks on and below its diagonal.

    Args:
        block: `block(whole, part, other, index, other_index)` returns the scores [C, C] of the items `part` (first
            axis) with `other`; it must be symmetric in them. What does not count, an item with itself for example, is
            -inf.
        whole: Any pytree that every block needs, scalars mostly.
        items: Pytree of arrays [M, ...].
        block_size: Items C in a block; None for what fits a fast cache.
        bound: As of `stream`.

    Returns:
        [M], as of `LogSum`.
    """
    whole, items = vary_alike((whole, items))
    count = jax.tree.leaves(items)[0].shape[0]
    size = of_triangle(count, block_size)
    small = None if bound is None else are_small(bound, common_dtype(whole, items))
    return _symmetric(block, size, whole, items, small)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _symmetric(block: Any, sizes: Sizes, whole: Any, items: Any, small: jax.Array | None) -> jax.Array:
    return _by_platform_and_size(sizes, small, functools.partial(_log_sums, block), whole, items)


def _by_platform_and_size(sizes: Sizes, small: jax.Array | None, function: Any, *given: Any) -> Any:
    """`function(size, small, *given)` as of `on_platform` and `by_size`."""

    def run(size: int, small: jax.Array | None, *given: Any) -> Any:
        return by_size(small, functools.partial(function, size), *given)

    return on_platform(sizes, run, small, *given)


def _log_sums(block: Any, size: int, small: jax.Array | None, whole: Any, items: Any) -> jax.Array:
    dtype = common_dtype(whole, items)
    table = _Triangle(block, Blocks(items, size), widen(whole, dtype), dtype)
    count = table.blocks.count
    start = vary_alike(((jnp.full(count, -jnp.inf, dtype), jnp.zeros(count, dtype)), whole, items))[0]

    def step(state: Any, pair: jax.Array) -> tuple[Any, None]:
        _, _, scores, (index, other), off_diagonal = table.scores(pair)
        # Without a block off the diagonal, XLA would take seconds to sum a constant table of -inf while it compiles.
        for axis, at in ((0, other[0]), (1, index[0]))[: table.steps]:
            x = scores if axis == 0 else jnp.where(off_diagonal, scores, -jnp.inf)
            before, total = (lax.dynamic_slice_in_dim(s, at, size) for s in state)
            if small is not None:
                top, total = jnp.zeros_like(before), total + jnp.sum(unshifted(x, small), axis=axis)
            else:
                top = lax.stop_gradient(jnp.maximum(before, jnp.max(x, axis=axis)))
                shift = finite(top)
                total = total * jnp.exp(before - shift) + jnp.sum(jnp.exp(x - jnp.expand_dims(shift, axis)), axis=axis)
            state = set_at(state[0], top, at), set_at(state[1], total, at)
        return state, None

    top, total = lax.scan(step, start, table.pairs)[0]
    return finite(top) + jnp.log(total)


def _symmetric_fwd(block: Any, sizes: Sizes, whole: Any, items: Any, small: Any) -> tuple[jax.Array, Any]:
    log_sums = _symmetric(block, sizes, whole, items, small)
    return log_sums, (whole, items, small, log_sums)


def _symmetric_bwd(block: Any, sizes: Sizes, residuals: Any, slopes: jax.Array) -> tuple[Any, Any, None]:
    whole, items, small, log_sums = residuals
    gradient = functools.partial(_gradient, block)
    return *_by_platform_and_size(sizes, small, gradient, whole, items, log_sums, slopes), None


def _gradient(
    block: Any, size: int, small: jax.Array | None, whole: Any, items: Any, log_sums: jax.Array, slopes: jax.Array
) -> tuple[Any, Any]:
    dtype = common_dtype(whole, items)
    table = _Triangle(block, Blocks(items, size), widen(whole, dtype), dtype)
    item_floats = [x.astype(dtype) for x in split_floats(items)[0]]
    zeros = jax.tree.map(jnp.zeros_like, (split_floats(table.whole)[0], item_floats))
    carry = vary_alike((zeros, whole, items, slopes))[0]
    totals = finite(log_sums)

    def step(carry: Any, pair: jax.Array) -> tuple[Any, None]:
        d_whole, d_items = carry
        floats, scores_of, _, (index, other), off_diagonal = table.scores(pair)
        scores, pull_back = jax.vjp(scores_of, *floats)
        slope, total = (lax.dynamic_slice_in_dim(x, other[0], size)[None] for x in (slopes, totals))
        slope_t, total_t = (lax.dynamic_slice_in_dim(x, index[0], size)[:, None] for x in (slopes, totals))
        slope_t = jnp.where(off_diagonal, slope_t, 0)
        if small is None:
            slope = slope * jnp.exp(scores - total) + slope_t * jnp.exp(scores - total_t)
        else:
            slope = unshifted(scores, small) * (slope * unshifted(-total, small) + slope_t * unshifted(-total_t, small))
        more, d_part, d_other = pull_back(slope)
        d_items = [add_at(t, x, index[0]) for t, x in zip(d_items, d_part, strict=True)]
        d_items = [add_at(t, x, other[0]) for t, x in zip(d_items, d_other, strict=True)]
        return (jax.tree.map(jnp.add, d_whole, more), d_items), None

    d_whole, d_items = lax.scan(step, carry, table.pairs)[0]
    return join_gradient(whole, d_whole), join_gradient(items, d_items)


_symmetric.defvjp(_symmetric_fwd, _symmetric_bwd)


@dataclasses.dataclass(frozen=True)
class _Triangle:
    """The blocks on and below the diagonal."""

    block: Any
    blocks: Blocks
    whole: Any
    dtype: Any

    @property
    def steps(self) -> int:
        return -(-self.blocks.count // self.blocks.size) if self.blocks.size else 0

    @property
    def pairs(self) -> jax.Array:
        return jnp.array([(i, j) for i in range(self.steps) for j in range(i + 1)], jnp.int32).reshape(-1, 2)

    def scores(self, pair: jax.Array) -> tuple[Any, Any, jax.Array, tuple[jax.Array, jax.Array], jax.Array]:
        """Floating arguments, the scores as a function of them, the scores, both indices, whether off the diagonal."""
        part, index, fresh = self.blocks.part(pair[0], self.dtype)
        other, other_index, other_fresh = self.blocks.part(pair[1], self.dtype)
        whole_floats, join_whole = split_floats(self.whole)
        floats, join = split_floats(part)
        other_floats, join_other = split_floats(other)

        def scores_of(w: Any, a: Any, b: Any) -> jax.Array:
            x = self.block(join_whole(w), join(a), join_other(b), index, other_index)
            if fresh is None or other_fresh is None:
                return x
            return jnp.where(fresh[:, None] & other_fresh[None], x, -jnp.inf)

        given = whole_floats, floats, other_floats
        return given, scores_of, scores_of(*given), (index, other_index), pair[0] != pair[1]
