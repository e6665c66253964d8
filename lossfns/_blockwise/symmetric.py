"""Symmetric tables: each off-diagonal block serves both its rows and its columns.

stream_symmetric -> _symmetric      _log_sums:  each block on or below the diagonal is reduced over both axes
                    _symmetric_bwd  _gradient:  each block again, with the cotangents of both reductions added
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._blockwise.blocks import Blocks, add_at, set_at
from lossfns._blockwise.pytrees import (
    PyTree,
    T,
    as_gradient_of,
    common_dtype,
    split_floats,
    vary_together,
    widen,
)
from lossfns._blockwise.reductions import (
    exp_cannot_overflow,
    unshifted_exp,
    with_or_without_shift,
    zero_if_infinite,
)
from lossfns._blockwise.sizes import BlockSizes, on_platform, triangle_sizes

Shared = TypeVar("Shared")
Items = TypeVar("Items")
Shared_contra = TypeVar("Shared_contra", contravariant=True)
Items_contra = TypeVar("Items_contra", contravariant=True)


class SymmetricBlockFn(Protocol[Shared_contra, Items_contra]):
    """The scores of a block of a symmetric table."""

    def __call__(
        self,
        shared: Shared_contra,
        items: Items_contra,
        others: Items_contra,
        index: jax.Array,
        other_index: jax.Array,
        /,
    ) -> jax.Array:
        """Returns scores [C, C] of `items` (first axis) with `others`, symmetric in them.

        Excluded pairs, such as an item with itself, get -inf.
        """


def stream_symmetric(
    block_fn: SymmetricBlockFn[Shared, Items],
    shared: Shared,
    items: Items,
    *,
    block_size: int | None = None,
    bound: jax.Array | float | None = None,
) -> jax.Array:
    """Log-sum-exp of each row of a symmetric table, from the blocks on and below its diagonal.

    Args:
        block_fn: `block_fn(shared, items, others, index, other_index)` returns scores, see `SymmetricBlockFn`.
        shared: Any pytree passed to every block, such as a temperature.
        items: Pytree of arrays [M, ...].
        block_size: Items C per block; None to fit a fast cache.
        bound: As in `stream`.

    Returns:
        [M], as for `LogSum`.
    """
    shared, items = vary_together((shared, items))
    sizes = triangle_sizes(jax.tree.leaves(items)[0].shape[0], block_size)
    unshifted_ok = None if bound is None else exp_cannot_overflow(bound, common_dtype(shared, items))
    log_sums: jax.Array = _symmetric(block_fn, sizes, shared, items, unshifted_ok)
    return log_sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _symmetric(
    block_fn: SymmetricBlockFn[Shared, Items],
    sizes: BlockSizes[int],
    shared: Shared,
    items: Items,
    unshifted_ok: jax.Array | None,
) -> jax.Array:
    return _on_platform(sizes, unshifted_ok, functools.partial(_log_sums, block_fn), shared, items)


def _on_platform(
    sizes: BlockSizes[int], unshifted_ok: jax.Array | None, function: Callable[..., T], *operands: PyTree
) -> T:
    """`function(size, unshifted_ok, *operands)`, as in `on_platform` and `with_or_without_shift`."""

    def run(size: int, unshifted_ok: jax.Array | None, *operands: PyTree) -> T:
        return with_or_without_shift(unshifted_ok, functools.partial(function, size), *operands)

    return on_platform(sizes, run, unshifted_ok, *operands)


def _log_sums(
    block_fn: SymmetricBlockFn[Shared, Items], size: int, unshifted_ok: jax.Array | None, shared: Shared, items: Items
) -> jax.Array:
    dtype = common_dtype(shared, items)
    table = _Triangle(block_fn, Blocks(items, size), widen(shared, dtype), dtype)
    count = table.blocks.count
    empty = jnp.full(count, -jnp.inf, dtype), jnp.zeros(count, dtype)
    start = vary_together((empty, shared, items))[0]

    def step(state: _LogSumState, pair: jax.Array) -> tuple[_LogSumState, None]:
        block = table.block(pair)
        # The first axis reduces columns, the second rows; on the diagonal these are the same. A single block is on the
        # diagonal: XLA would take seconds to constant-fold the sum of a table of -inf.
        for axis, at in ((0, block.other_numbers[0]), (1, block.numbers[0]))[: table.blocks.steps]:
            scores = block.scores if axis == 0 else jnp.where(block.off_diagonal, block.scores, -jnp.inf)
            before, total = (lax.dynamic_slice_in_dim(s, at, size) for s in state)
            if unshifted_ok is not None:
                added = jnp.sum(unshifted_exp(scores, unshifted_ok), axis=axis)
                maximum, total = jnp.zeros_like(before), total + added
            else:
                maximum = lax.stop_gradient(jnp.maximum(before, jnp.max(scores, axis=axis)))
                shift = zero_if_infinite(maximum)
                rescaled = total * jnp.exp(before - shift)
                total = rescaled + jnp.sum(jnp.exp(scores - jnp.expand_dims(shift, axis)), axis=axis)
            state = set_at(state[0], maximum, at), set_at(state[1], total, at)
        return state, None

    maximum, total = lax.scan(step, start, table.pairs)[0]
    return zero_if_infinite(maximum) + jnp.log(total)


_LogSumState = tuple[jax.Array, jax.Array]
"""Running maximum of each item, and sum of exponentials relative to it."""

_Residuals = tuple[Shared, Items, jax.Array | None, jax.Array]
"""Shared inputs, items, `unshifted_ok`, and the log-sums."""


def _symmetric_fwd(
    block_fn: SymmetricBlockFn[Shared, Items],
    sizes: BlockSizes[int],
    shared: Shared,
    items: Items,
    unshifted_ok: jax.Array | None,
) -> tuple[jax.Array, _Residuals[Shared, Items]]:
    log_sums = _symmetric(block_fn, sizes, shared, items, unshifted_ok)
    return log_sums, (shared, items, unshifted_ok, log_sums)


def _symmetric_bwd(
    block_fn: SymmetricBlockFn[Shared, Items],
    sizes: BlockSizes[int],
    residuals: _Residuals[Shared, Items],
    cotangents: jax.Array,
) -> tuple[Shared, Items, None]:
    shared, items, unshifted_ok, log_sums = residuals
    gradient = functools.partial(_gradient, block_fn)
    d_shared, d_items = _on_platform(sizes, unshifted_ok, gradient, shared, items, log_sums, cotangents)
    return d_shared, d_items, None


def _gradient(
    block_fn: SymmetricBlockFn[Shared, Items],
    size: int,
    unshifted_ok: jax.Array | None,
    shared: Shared,
    items: Items,
    log_sums: jax.Array,
    cotangents: jax.Array,
) -> tuple[Shared, Items]:
    dtype = common_dtype(shared, items)
    table = _Triangle(block_fn, Blocks(items, size), widen(shared, dtype), dtype)
    item_floats = [x.astype(dtype) for x in split_floats(items)[0]]
    zeros = jax.tree.map(jnp.zeros_like, (split_floats(table.shared)[0], item_floats))
    carry = vary_together((zeros, shared, items, cotangents))[0]
    log_sums = zero_if_infinite(log_sums)

    def step(carry: _Gradient, pair: jax.Array) -> tuple[_Gradient, None]:
        d_shared, d_items = carry
        block = table.block(pair)
        scores, pull_back = jax.vjp(block.scores_of, *block.floats)
        # Cotangent and log-sum of the block's columns [1, C], and of its rows [C, 1], counted only off the diagonal.
        start, other_start = block.numbers[0], block.other_numbers[0]
        column_g, column_z = (lax.dynamic_slice_in_dim(x, other_start, size)[None] for x in (cotangents, log_sums))
        row_g, row_z = (lax.dynamic_slice_in_dim(x, start, size)[:, None] for x in (cotangents, log_sums))
        row_g = jnp.where(block.off_diagonal, row_g, 0)
        # The cotangent of the scores: both softmaxes, from one exponential if that cannot overflow.
        if unshifted_ok is None:
            d_scores = column_g * jnp.exp(scores - column_z) + row_g * jnp.exp(scores - row_z)
        else:
            powers = unshifted_exp(scores, unshifted_ok)
            column_weight = column_g * unshifted_exp(-column_z, unshifted_ok)
            d_scores = powers * (column_weight + row_g * unshifted_exp(-row_z, unshifted_ok))
        more_shared, d_block, d_others = pull_back(d_scores)
        d_items = [add_at(total, x, start) for total, x in zip(d_items, d_block, strict=True)]
        d_items = [add_at(total, x, other_start) for total, x in zip(d_items, d_others, strict=True)]
        return (jax.tree.map(jnp.add, d_shared, more_shared), d_items), None

    d_shared, d_items = lax.scan(step, carry, table.pairs)[0]
    return as_gradient_of(shared, d_shared), as_gradient_of(items, d_items)


_Gradient = tuple[list[jax.Array], list[jax.Array]]
"""Gradients of the floating shared inputs and items."""

_symmetric.defvjp(_symmetric_fwd, _symmetric_bwd)


class _Block(NamedTuple):
    """A block of a symmetric table."""

    floats: tuple[list[jax.Array], list[jax.Array], list[jax.Array]]
    """The floating shared inputs, items and other items."""
    scores_of: Callable[[list[jax.Array], list[jax.Array], list[jax.Array]], jax.Array]
    """The scores as a function of them."""
    scores: jax.Array
    numbers: jax.Array
    """Indices of the items, one per row of the scores."""
    other_numbers: jax.Array
    """Indices of the other items, one per column."""
    off_diagonal: jax.Array


@dataclasses.dataclass(frozen=True)
class _Triangle(Generic[Shared, Items]):
    """The blocks on and below the diagonal."""

    block_fn: SymmetricBlockFn[Shared, Items]
    blocks: Blocks[Items]
    shared: Shared
    dtype: jnp.dtype

    @property
    def pairs(self) -> jax.Array:
        """The two block indices of each block."""
        pairs = [(i, j) for i in range(self.blocks.steps) for j in range(i + 1)]
        return jnp.array(pairs, jnp.int32).reshape(-1, 2)

    def block(self, pair: jax.Array) -> _Block:
        """The scores between two blocks of items, -inf for entries of previous blocks."""
        items, index, first_visit = self.blocks.block(pair[0], self.dtype)
        others, other_index, other_first_visit = self.blocks.block(pair[1], self.dtype)
        shared_floats, join_shared = split_floats(self.shared)
        item_floats, join_items = split_floats(items)
        other_floats, join_others = split_floats(others)

        def scores_of(shared: list[jax.Array], items: list[jax.Array], others: list[jax.Array]) -> jax.Array:
            scores = self.block_fn(join_shared(shared), join_items(items), join_others(others), index, other_index)
            if first_visit is None or other_first_visit is None:
                return scores
            return jnp.where(first_visit[:, None] & other_first_visit[None], scores, -jnp.inf)

        floats = shared_floats, item_floats, other_floats
        return _Block(floats, scores_of, scores_of(*floats), index, other_index, pair[0] != pair[1])
