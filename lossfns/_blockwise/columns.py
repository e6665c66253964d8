"""Any table: blocks of columns, and in each of these, blocks of rows."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._blockwise.reductions import (
    Moments,
    Shifted,
    Tile,
    across,
    are_small,
    by_size,
    initial,
    is_reduction,
    merge,
    result,
    slope_of,
)
from lossfns._blockwise.sizes import BlockSize, Size, Sizes, of_table, on_platform
from lossfns._blockwise.speculative import speculate
from lossfns._blockwise.trees import (
    Blocks,
    add_at,
    common_dtype,
    join_gradient,
    split_floats,
    vary,
    vary_alike,
    varying_axes,
    wide,
    widen,
)
from lossfns._contract import AxisName

Block = Callable[[Any, Any, jax.Array], Any]
"""`block(whole, part, index)`: reductions [C, n] of n rows and the columns `part`, whose numbers are `index` [C]."""


def stream(
    block: Block,
    whole: Any,
    columns: Any,
    *,
    block_size: BlockSize = None,
    bound: Any = None,
    expected: Any = None,
    axis_name: AxisName = None,
) -> Any:
    """Reduce a table of scores block by block.

    Args:
        block: `block(whole, part, index)` returns a pytree of reductions. It must depend on nothing traced but its
            arguments. Floating arrays come to it in float32 or wider.
        whole: Pytree of arrays [..., N] of the rows, of which a block may be given some, and of scalars, such as a
            temperature, that every block needs.
        columns: Pytree of arrays [M, ...]; `part` holds C of their entries.
        block_size: Columns C in a block, or columns and rows; None for what fits a fast cache. Values and gradients do
            not depend on it.
        bound: A number that no score of a `LogSum` or `ColumnLogSum` exceeds in magnitude, but those of -inf. If it is
            so low that no exponential can overflow, sums are made without a search for maxima, and with one exponential
            for all reductions of a score. Which form is taken is decided at run time.
        expected: Cotangents, one for each result, to a multiple of which the gradient is made in the forward pass; for
            reductions that are sums. None recomputes the blocks in the backward pass.
        axis_name: A mapped axis over which the columns are spread, while the rows are the same on all of its devices.
            Results of rows are then over the columns of all devices, and the same on each; so must the cotangents be.
            The gradient of `whole` is complete on each device, that of the columns is of its own.

    Returns:
        The pytree of `block` with an array in place of each reduction: [N] or [M].
    """
    if axis_name is None:
        whole, columns, expected = vary_alike((whole, columns, expected))
    else:
        whole, columns = _vary_around(axis_name, whole, columns)
    size = sizes(block, whole, columns, block_size)
    if expected is None:
        small = None if bound is None else are_small(bound, common_dtype(whole, columns))
        return _stream(block, size, axis_name, whole, columns, small)
    return speculate(
        functools.partial(_forward, block, size),
        functools.partial(_with_gradient, block, size),
        functools.partial(_gradient_alone, block, size),
        expected,
        (whole, columns),
    )


def sizes(block: Block, whole: Any, columns: Any, block_size: BlockSize) -> Sizes:
    """Columns and rows in a block."""
    count = jax.tree.leaves(columns)[0].shape[0]
    rows = jax.tree.leaves(_kinds(block, whole, columns)[0])[0].shape[1]
    arrays = [jnp.shape(x) for x in jax.tree.leaves(whole) if jnp.ndim(x)]
    if any(shape[-1] != rows for shape in arrays):
        raise ValueError(f"arrays of whole must have the {rows} rows as their last axis, got shapes {arrays}")
    return of_table(count, rows, block_size, whole_rows=not arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _stream(block: Block, size: Sizes, axis_name: Any, whole: Any, columns: Any, small: jax.Array | None = None) -> Any:
    results = _forward(block, size, whole, columns, small=small)
    if axis_name is None:
        return results
    kinds, structure = _kinds(block, whole, columns)
    of_all = [across(kind, result, axis_name) for kind, result in zip(kinds, _results(results), strict=True)]
    return jax.tree.unflatten(structure, of_all)


def _stream_fwd(block: Block, size: Sizes, axis_name: Any, whole: Any, columns: Any, small: Any) -> tuple[Any, Any]:
    # By its own rule, should this pass be differentiated in turn.
    results = _stream(block, size, axis_name, whole, columns, small)
    return results, (whole, columns, small, results)


def _stream_bwd(block: Block, size: Sizes, axis_name: Any, residuals: Any, cotangents: Any) -> tuple[Any, Any, None]:
    whole, columns, small, results = residuals
    d_whole, d_columns = _gradient(block, size, small, whole, columns, results, cotangents)
    if axis_name is not None:
        d_whole = _complete(whole, d_whole, axis_name)
    return d_whole, d_columns, None


_stream.defvjp(_stream_fwd, _stream_bwd)


def _forward(
    block: Block,
    sizes: Sizes,
    whole: Any,
    columns: Any,
    active: jax.Array | None = None,
    small: jax.Array | None = None,
) -> Any:
    def reduced(size: Size, small: Any, whole: Any, columns: Any, active: Any) -> Any:
        return by_size(small, functools.partial(_reduced, block, size), whole, columns, active)

    return on_platform(sizes, reduced, small, whole, columns, active)


def _reduced(
    block: Block, size: Size, small: jax.Array | None, whole: Any, columns: Any, active: jax.Array | None
) -> Any:
    whole, columns = vary_alike((whole, columns))
    table = _Table(block, size, whole, columns)
    states = vary_alike(([initial(kind, table.columns.count) for kind in table.kinds], whole, columns))[0]

    def step(states: list[Any], i: jax.Array) -> tuple[list[Any], None]:
        part, index, fresh = table.column_block(i)

        def over_rows(states: list[Any], k: jax.Array) -> tuple[list[Any], None]:
            rows, tile = table.row_block(k, index, fresh)
            reductions = _reductions(block(rows, part, index))[0]
            return [merge(r, state, tile, small) for r, state in zip(reductions, states, strict=True)], None

        return table.rows.scan(over_rows, states), None

    states = table.columns.scan(step, states, active)
    return table.tree([result(kind, state) for kind, state in zip(table.kinds, states, strict=True)])


def _gradient(
    block: Block, size: Sizes, small: jax.Array | None, whole: Any, columns: Any, results: Any, cotangents: Any
) -> tuple[Any, Any]:
    def scan(small: jax.Array | None, whole: Any, columns: Any, results: Any, cotangents: Any) -> tuple[Any, Any]:
        return _scan(block, size, whole, columns, results, cotangents, small=small)[1]

    return by_size(small, scan, *vary_alike((whole, columns, results, cotangents)))


def _scan(
    block: Block,
    sizes: Sizes,
    whole: Any,
    columns: Any,
    results: Any,
    cotangents: Any,
    start: Any = None,
    active: jax.Array | None = None,
    small: jax.Array | None = None,
) -> tuple[list[Any], tuple[Any, Any]]:
    """The gradient, block by block; without `results`, for reductions that are sums, these as well.

    It is added to `start`, a gradient, unless `active` is False: in place, which of two branches only one could do.
    """
    given = whole, columns, results, cotangents, start, active, small
    return on_platform(sizes, functools.partial(_scanned, block), *given)


def _scanned(
    block: Block,
    size: Size,
    whole: Any,
    columns: Any,
    results: Any,
    cotangents: Any,
    start: Any,
    active: jax.Array | None,
    small: jax.Array | None,
) -> tuple[list[Any], tuple[Any, Any]]:
    table = _Table(block, size, whole, columns)
    whole_floats, column_floats = split_floats(table.rows.arrays)[0], split_floats(columns)[0]
    known = [None] * len(table.kinds) if results is None else _results(results)
    slopes = _results(cotangents)
    states = [initial(kind, table.columns.count) for kind in table.kinds] if results is None else []
    zeros = jax.tree.map(jnp.zeros_like, (whole_floats, column_floats))
    if start is not None:
        zeros = jax.tree.leaves(widen(start[0], table.dtype)), jax.tree.leaves(start[1])
    carry = vary_alike(((states, *zeros), whole, columns, cotangents))[0]

    def step(carry: Any, i: jax.Array) -> tuple[Any, None]:
        states, d_whole, d_columns = carry
        part, index, fresh = table.column_block(i)
        floats, join_part = split_floats(part)

        def over_rows(carry: Any, k: jax.Array) -> tuple[Any, None]:
            states, d_whole, d_part = carry
            rows, tile = table.row_block(k, index, fresh)
            row_floats, join_rows = split_floats(rows)
            values, pull_back = jax.vjp(lambda w, c: block(join_rows(w), join_part(c), index), row_floats, floats)
            reductions = _reductions(values)[0]
            states = [merge(r, s, tile) for r, s in zip(reductions, states, strict=False)]
            pulled = [slope_of(*given, tile, small) for given in zip(reductions, known, slopes, strict=True)]
            d_rows, more = pull_back(table.tree(pulled))
            d_whole = [
                add_at(total, x, tile.row, axis=-1) if x.ndim else total + x
                for total, x in zip(d_whole, d_rows, strict=True)
            ]
            return (states, d_whole, jax.tree.map(jnp.add, d_part, more)), None

        nothing = vary_alike((jax.tree.map(jnp.zeros_like, floats), carry))[0]
        states, d_whole, d_part = table.rows.scan(over_rows, (states, d_whole, nothing))
        added = fresh is not None or start is not None
        d_columns = [add_at(total, x, index[0], added) for total, x in zip(d_columns, d_part, strict=True)]
        return (states, d_whole, d_columns), None

    states, d_whole, d_columns = table.columns.scan(step, carry, active)
    done = [result(kind, state) for kind, state in zip(table.kinds, states, strict=False)]
    return done and table.tree(done), (join_gradient(whole, d_whole), join_gradient(columns, d_columns))


class _Table:
    """A table of scores, in blocks of columns and in each of these blocks of rows."""

    def __init__(self, block: Block, size: Size, whole: Any, columns: Any) -> None:
        self.dtype = common_dtype(whole, columns)
        self.kinds, self._structure = _kinds(block, whole, columns)
        count = jax.tree.leaves(self.kinds)[0].shape[1]
        self.columns = Blocks(columns, size[0])
        self.rows = Blocks(widen(whole, self.dtype), size[1], axis=-1, length=count)

    def column_block(self, i: Any) -> tuple[Any, jax.Array, jax.Array | None]:
        return self.columns.part(i, self.dtype)

    def row_block(self, k: Any, index: jax.Array, fresh: jax.Array | None) -> tuple[Any, Tile]:
        """Rows, and where their scores with a block of columns are."""
        rows, row_index, row_fresh = self.rows.part(k, self.dtype)
        fresh = fresh if fresh is None else fresh[:, None]
        if row_fresh is not None:
            fresh = row_fresh[None] if fresh is None else fresh & row_fresh[None]
        return rows, Tile(index[0], row_index[0], fresh)

    def tree(self, reductions: list[Any]) -> Any:
        """The pytree that a block returns."""
        return jax.tree.unflatten(self._structure, reductions)


def _with_gradient(block: Block, size: Sizes, arguments: tuple[Any, Any], cotangents: Any) -> Any:
    return _scan(block, size, *arguments, None, cotangents)


def _gradient_alone(
    block: Block, size: Sizes, arguments: tuple[Any, Any], cotangents: Any, start: Any = None, active: Any = None
) -> Any:
    return _scan(block, size, *arguments, None, cotangents, start, active)[1]


def gradient_of(
    block: Block, whole: Any, columns: Any, cotangents: Any, start: Any = None, active: Any = None
) -> tuple[Any, Any]:
    """The gradient of `stream`, results included, for `cotangents(results)`; `start` and `active` as of `speculate`.

    Returns:
        That of `whole` and of `columns`, None at integers.
    """
    size = sizes(block, whole, columns, None)
    results = (
        _stream(block, size, None, whole, columns) if active is None else _forward(block, size, whole, columns, active)
    )
    return _scan(block, size, whole, columns, results, cotangents(results), start, active)[1]


def _kinds(block: Block, whole: Any, columns: Any) -> tuple[list[Any], Any]:
    """The reductions of one column and all rows, as shapes, and the pytree they came in."""
    dtype = common_dtype(whole, columns)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), wide(x, dtype)), columns)
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), wide(jnp.asarray(x), dtype)), whole)
    return _reductions(jax.eval_shape(block, rows, one, jax.ShapeDtypeStruct((1,), jnp.int32)))


def _complete(whole: Any, slopes: Any, axis_name: Any) -> Any:
    """The gradient of what is the same on all devices, summed over them; of what is not, each has its own."""
    leaves, structure = jax.tree.flatten(whole, is_leaf=lambda x: x is None)
    own = jax.tree.leaves(slopes, is_leaf=lambda x: x is None)
    summed = [
        dx if dx is None or _varies(x, axis_name) else lax.psum(dx, axis_name)
        for x, dx in zip(leaves, own, strict=True)
    ]
    return jax.tree.unflatten(structure, summed)


def _varies(x: Any, axis_name: Any) -> bool:
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    return not jax.typeof(x).manual_axis_type.varying.isdisjoint(names)


def _vary_around(axis_name: Any, whole: Any, columns: Any) -> tuple[Any, Any]:
    """As `vary_alike` over the other mapped axes; over this one the columns vary, and of the rows what did before."""
    names = {*axis_name} if isinstance(axis_name, tuple) else {axis_name}
    axes = varying_axes((whole, columns))
    if not axes:  # outside of shard_map, or without check_vma
        return whole, columns
    return vary(whole, axes - names), vary(columns, axes | names)


def _reductions(tree: Any) -> tuple[list[Any], Any]:
    return jax.tree.flatten(tree, is_leaf=is_reduction)


def _results(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Moments | Shifted))
