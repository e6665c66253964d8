"""The two passes over a table of scores, block by block, and the type of block functions.

Both passes have two loops, over blocks of columns and within each over blocks of rows:

- `forward_pass` merges each block's reductions into a state per row or column.
- `backward_pass` recomputes each block and its vector-Jacobian product with the cotangents of its scores, which follow
  from the results and their cotangents, and accumulates the gradients of rows and columns.

`differentiate_blocks` is the loop of the backward pass. For sums it needs no results, so it can compute them at the
same time. All are plain functions: `stream` and `ring` make them differentiable.
"""

import functools
from typing import Generic, Protocol, TypeVar

import jax
import jax.numpy as jnp

from lossfns._blockwise.blocks import Blocks, add_at
from lossfns._blockwise.pytrees import (
    PyTree,
    as_gradient_of,
    common_dtype,
    split_floats,
    vary_together,
    widen,
    widened_dtype,
)
from lossfns._blockwise.reductions import (
    Moments,
    Position,
    Reduction,
    Result,
    Shifted,
    State,
    final_result,
    initial_state,
    is_reduction,
    merge,
    scores_cotangent,
    with_or_without_shift,
)
from lossfns._blockwise.sizes import BlockSize, TableSizes, on_platform, table_sizes

Rows = TypeVar("Rows")
Columns = TypeVar("Columns")
Rows_contra = TypeVar("Rows_contra", contravariant=True)
Columns_contra = TypeVar("Columns_contra", contravariant=True)


class BlockFn(Protocol[Rows_contra, Columns_contra]):
    """Computes the scores of a block and their reductions."""

    def __call__(self, rows: Rows_contra, columns: Columns_contra, index: jax.Array, /) -> PyTree:
        """Returns a pytree of reductions of scores [C, n].

        Args:
            rows: The row inputs, of n rows.
            columns: The column inputs, of C columns.
            index: [C], the indices of these columns in the table.
        """


def block_sizes(
    block_fn: BlockFn[Rows, Columns], row_inputs: Rows, column_inputs: Columns, block_size: BlockSize
) -> TableSizes:
    """Columns and rows per block on each platform."""
    columns = jax.tree.leaves(column_inputs)[0].shape[0]
    rows = jax.tree.leaves(reduction_kinds(block_fn, row_inputs, column_inputs)[0])[0].shape[1]
    shapes = [jnp.shape(x) for x in jax.tree.leaves(row_inputs) if jnp.ndim(x)]
    if any(shape[-1] != rows for shape in shapes):
        raise ValueError(f"arrays of row_inputs must have the {rows} rows as their last axis, got shapes {shapes}")
    return table_sizes(columns, rows, block_size, all_rows=not shapes)


def reduction_kinds(
    block_fn: BlockFn[Rows, Columns], row_inputs: Rows, column_inputs: Columns
) -> tuple[list[Reduction], jax.tree_util.PyTreeDef]:
    """The reductions of one column and all rows, with shapes instead of arrays, and their pytree."""
    dtype = common_dtype(row_inputs, column_inputs)
    columns = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), widened_dtype(x, dtype)), column_inputs)
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), widened_dtype(jnp.asarray(x), dtype)), row_inputs)
    return _flat_reductions(jax.eval_shape(block_fn, rows, columns, jax.ShapeDtypeStruct((1,), jnp.int32)))


def forward_pass(
    block_fn: BlockFn[Rows, Columns],
    sizes: TableSizes,
    row_inputs: Rows,
    column_inputs: Columns,
    active: jax.Array | None = None,
    unshifted_ok: jax.Array | None = None,
) -> PyTree:
    """The results of all reductions, in the pytree of `block_fn`.

    Unless `active`, the loop runs zero times and the table counts as empty. For the other arguments see `stream` and
    `with_or_without_shift`.
    """

    def run(
        size: tuple[int, int],
        unshifted_ok: jax.Array | None,
        row_inputs: Rows,
        column_inputs: Columns,
        active: jax.Array | None,
    ) -> PyTree:
        reduce_blocks = functools.partial(_reduce_blocks, block_fn, size)
        return with_or_without_shift(unshifted_ok, reduce_blocks, row_inputs, column_inputs, active)

    return on_platform(sizes, run, unshifted_ok, row_inputs, column_inputs, active)


def _reduce_blocks(
    block_fn: BlockFn[Rows, Columns],
    size: tuple[int, int],
    unshifted_ok: jax.Array | None,
    row_inputs: Rows,
    column_inputs: Columns,
    active: jax.Array | None,
) -> PyTree:
    row_inputs, column_inputs = vary_together((row_inputs, column_inputs))
    table = _Table(block_fn, size, row_inputs, column_inputs)
    states = [initial_state(kind, table.columns.count) for kind in table.kinds]
    states = vary_together((states, row_inputs, column_inputs))[0]

    def step(states: list[State], i: jax.Array) -> tuple[list[State], None]:
        columns, index, first_visit = table.column_block(i)

        def over_rows(states: list[State], k: jax.Array) -> tuple[list[State], None]:
            rows, position = table.row_block(k, index, first_visit)
            reductions, _ = _flat_reductions(block_fn(rows, columns, index))
            return [merge(r, state, position, unshifted_ok) for r, state in zip(reductions, states, strict=True)], None

        return table.rows.scan(over_rows, states), None

    states = table.columns.scan(step, states, active)
    return table.unflatten([final_result(kind, state) for kind, state in zip(table.kinds, states, strict=True)])


def backward_pass(
    block_fn: BlockFn[Rows, Columns],
    sizes: TableSizes,
    row_inputs: Rows,
    column_inputs: Columns,
    results: PyTree,
    cotangents: PyTree,
    unshifted_ok: jax.Array | None,
) -> tuple[Rows, Columns]:
    """The gradient of row and column inputs, None at integers, given the results and their cotangents."""

    def run(
        unshifted_ok: jax.Array | None, row_inputs: Rows, column_inputs: Columns, results: PyTree, cotangents: PyTree
    ) -> tuple[Rows, Columns]:
        operands = row_inputs, column_inputs, results, cotangents
        return differentiate_blocks(block_fn, sizes, *operands, unshifted_ok=unshifted_ok)[1]

    return with_or_without_shift(unshifted_ok, run, *vary_together((row_inputs, column_inputs, results, cotangents)))


def differentiate_blocks(
    block_fn: BlockFn[Rows, Columns],
    sizes: TableSizes,
    row_inputs: Rows,
    column_inputs: Columns,
    results: PyTree | None,
    cotangents: PyTree,
    start: tuple[Rows, Columns] | None = None,
    active: jax.Array | None = None,
    unshifted_ok: jax.Array | None = None,
) -> tuple[PyTree, tuple[Rows, Columns]]:
    """The loop of the backward pass. The gradient is added to `start` in place.

    `results` of None computes them here, for reductions that are sums. Unless `active`, the loop runs zero times and
    the gradient is `start` (a `lax.cond` would copy it). For the other arguments see `stream` and
    `with_or_without_shift`.

    Returns:
        The results if computed here, else an empty list, and the gradient of row and column inputs, None at integers.
    """
    differentiate = functools.partial(_differentiate_blocks, block_fn)
    operands = row_inputs, column_inputs, results, cotangents, start, active, unshifted_ok
    return on_platform(sizes, differentiate, *operands)


def _differentiate_blocks(
    block_fn: BlockFn[Rows, Columns],
    size: tuple[int, int],
    row_inputs: Rows,
    column_inputs: Columns,
    results: PyTree | None,
    cotangents: PyTree,
    start: tuple[Rows, Columns] | None,
    active: jax.Array | None,
    unshifted_ok: jax.Array | None,
) -> tuple[PyTree, tuple[Rows, Columns]]:
    table = _Table(block_fn, size, row_inputs, column_inputs)

    # The carry: reduction states unless the results are known, and gradient totals, starting from `start`.
    states = [initial_state(kind, table.columns.count) for kind in table.kinds] if results is None else []
    totals = jax.tree.map(jnp.zeros_like, (split_floats(table.rows.arrays)[0], split_floats(column_inputs)[0]))
    if start is not None:
        totals = jax.tree.leaves(widen(start[0], table.dtype)), jax.tree.leaves(start[1])
    carry = vary_together(((states, *totals), row_inputs, column_inputs, cotangents))[0]
    known = [None] * len(table.kinds) if results is None else _flat_results(results)
    wanted = _flat_results(cotangents)

    def step(carry: _Carry, i: jax.Array) -> tuple[_Carry, None]:
        states, row_totals, column_totals = carry
        columns, index, first_visit = table.column_block(i)
        column_floats, join_columns = split_floats(columns)

        def over_rows(carry: _Carry, k: jax.Array) -> tuple[_Carry, None]:
            states, row_totals, d_columns = carry
            # Recompute the block and its vector-Jacobian product.
            rows, position = table.row_block(k, index, first_visit)
            row_floats, join_rows = split_floats(rows)
            values, pull_back = jax.vjp(
                lambda r, c: block_fn(join_rows(r), join_columns(c), index), row_floats, column_floats
            )
            reductions, _ = _flat_reductions(values)
            states = [merge(r, state, position) for r, state in zip(reductions, states, strict=False)]
            # Cotangents of results -> of scores -> of rows and columns.
            d_scores = [
                scores_cotangent(*x, position, unshifted_ok) for x in zip(reductions, known, wanted, strict=True)
            ]
            d_rows, more = pull_back(table.unflatten(d_scores))
            # Rows are visited once per block of columns, scalars in every block.
            row_totals = [
                add_at(t, x, position.row, axis=-1) if x.ndim else t + x
                for t, x in zip(row_totals, d_rows, strict=True)
            ]
            return (states, row_totals, jax.tree.map(jnp.add, d_columns, more)), None

        # The gradient of these columns is accumulated over all blocks of rows, then written once.
        zeros = vary_together((jax.tree.map(jnp.zeros_like, column_floats), carry))[0]
        states, row_totals, d_columns = table.rows.scan(over_rows, (states, row_totals, zeros))
        overlap = first_visit is not None or start is not None
        column_totals = [add_at(t, x, index[0], overlap) for t, x in zip(column_totals, d_columns, strict=True)]
        return (states, row_totals, column_totals), None

    states, row_totals, column_totals = table.columns.scan(step, carry, active)
    done = [final_result(kind, state) for kind, state in zip(table.kinds, states, strict=False)]
    gradient = as_gradient_of(row_inputs, row_totals), as_gradient_of(column_inputs, column_totals)
    return done and table.unflatten(done), gradient


_Carry = tuple[list[State], list[jax.Array], list[jax.Array]]
"""States, and gradients of the floating row and column inputs."""


class _Table(Generic[Rows, Columns]):
    """A table of scores, read in blocks of columns, and within these in blocks of rows."""

    def __init__(
        self, block_fn: BlockFn[Rows, Columns], size: tuple[int, int], row_inputs: Rows, column_inputs: Columns
    ) -> None:
        self.dtype = common_dtype(row_inputs, column_inputs)
        self.kinds, self._structure = reduction_kinds(block_fn, row_inputs, column_inputs)
        rows = jax.tree.leaves(self.kinds)[0].shape[1]
        self.columns = Blocks(column_inputs, size[0])
        self.rows = Blocks(widen(row_inputs, self.dtype), size[1], axis=-1, length=rows)

    def column_block(self, i: jax.Array) -> tuple[Columns, jax.Array, jax.Array | None]:
        """Some columns, their indices, and which of them are a first visit."""
        return self.columns.block(i, self.dtype)

    def row_block(self, k: jax.Array, index: jax.Array, first_visit: jax.Array | None) -> tuple[Rows, Position]:
        """Some rows, and the position of their scores in a block of columns."""
        rows, row_index, first_row_visit = self.rows.block(k, self.dtype)
        first_visit = first_visit if first_visit is None else first_visit[:, None]
        if first_row_visit is not None:
            first_visit = first_row_visit[None] if first_visit is None else first_visit & first_row_visit[None]
        return rows, Position(index[0], row_index[0], first_visit)

    def unflatten(self, leaves: list[Result] | list[Reduction]) -> PyTree:
        """The pytree of the block function, with these leaves instead of its reductions."""
        return jax.tree.unflatten(self._structure, leaves)


def _flat_reductions(tree: PyTree) -> tuple[list[Reduction], jax.tree_util.PyTreeDef]:
    return jax.tree.flatten(tree, is_leaf=is_reduction)


def _flat_results(tree: PyTree) -> list[Result]:
    return jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Moments | Shifted))
