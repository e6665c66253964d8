"""Columns passed around a ring of devices: no device ever holds all columns or all pairs.

Each device keeps its rows. Its columns travel with their partial results and, in the backward pass, with their
gradient, and are complete when they are home again, after one step for each device:

    stream_ring -> _ring      forward_pass of local rows and visiting columns; add to the results; pass columns on
                   _ring_bwd  backward_pass of the same blocks; add to the gradient; pass columns on

Blocks are recomputed in the backward pass. Memory between the passes does not grow with the number of devices.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._blockwise.pytrees import PyTree, T, as_gradient_of, common_dtype, split_floats, vary_together
from lossfns._blockwise.reductions import ColumnSum, Reduction, Sum, exp_cannot_overflow, is_per_column
from lossfns._blockwise.sizes import BlockSize, TableSizes
from lossfns._blockwise.table import (
    BlockFn,
    Columns,
    Rows,
    backward_pass,
    block_sizes,
    forward_pass,
    reduction_kinds,
)

MappedAxis = str | tuple[str, ...]


def stream_ring(
    block_fn: BlockFn[Rows, Columns],
    row_inputs: Rows,
    column_inputs: Columns,
    axis_name: MappedAxis,
    *,
    block_size: BlockSize = None,
    bound: jax.Array | float | None = None,
) -> PyTree:
    """Reduces a table of the rows of this device x the columns of all devices.

    Args:
        block_fn: As in `stream`, with reductions that are sums or log-sums. `index` counts the columns of one device;
            put anything that distinguishes columns of different devices into `column_inputs`.
        row_inputs: The rows of this device, and scalars.
        column_inputs: Pytree of arrays [M, ...], the columns of this device.
        axis_name: The mapped axis, with the same number of columns on each device.
        block_size: As in `stream`.
        bound: As in `stream`, for the columns of all devices.

    Returns:
        The pytree of `block_fn`: [N], over all columns, and [M], for the columns of this device over all rows.
    """
    row_inputs, column_inputs = vary_together((row_inputs, column_inputs))
    sizes = block_sizes(block_fn, row_inputs, column_inputs, block_size)
    unshifted_ok = None if bound is None else exp_cannot_overflow(bound, common_dtype(row_inputs, column_inputs))
    return _ring(block_fn, sizes, axis_name, row_inputs, column_inputs, unshifted_ok)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _ring(
    block_fn: BlockFn[Rows, Columns],
    sizes: TableSizes,
    axis_name: MappedAxis,
    row_inputs: Rows,
    column_inputs: Columns,
    unshifted_ok: jax.Array | None,
) -> PyTree:
    kinds, structure = reduction_kinds(block_fn, row_inputs, column_inputs)

    # The results of an empty table.
    shapes = jax.eval_shape(lambda: structure.flatten_up_to(forward_pass(block_fn, sizes, row_inputs, column_inputs)))
    empty = [
        jnp.full(x.shape, 0 if isinstance(kind, Sum | ColumnSum) else -jnp.inf, x.dtype)
        for kind, x in zip(kinds, shapes, strict=True)
    ]
    start = vary_together((empty, row_inputs, column_inputs))[0]

    def step(carry: _Carry[Columns], _: None) -> tuple[_Carry[Columns], None]:
        columns, of_rows, of_columns = carry
        more = structure.flatten_up_to(forward_pass(block_fn, sizes, row_inputs, columns, unshifted_ok=unshifted_ok))
        so_far = _join(kinds, of_rows, of_columns)
        of_rows, of_columns = _split(kinds, [_add(*given) for given in zip(kinds, so_far, more, strict=True)])
        columns, of_columns = _send_on((columns, of_columns), axis_name)
        return (columns, of_rows, of_columns), None

    carry = (column_inputs, *_split(kinds, start))
    _, of_rows, of_columns = lax.scan(step, carry, None, length=lax.axis_size(axis_name))[0]
    return jax.tree.unflatten(structure, _join(kinds, of_rows, of_columns))


_Carry = tuple[Columns, list[jax.Array], list[jax.Array]]
"""The visiting columns, the results of the rows, and the results of the columns."""

_Residuals = tuple[Rows, Columns, jax.Array | None, PyTree]
"""Row and column inputs, `unshifted_ok`, and the results."""


def _ring_fwd(
    block_fn: BlockFn[Rows, Columns],
    sizes: TableSizes,
    axis_name: MappedAxis,
    row_inputs: Rows,
    column_inputs: Columns,
    unshifted_ok: jax.Array | None,
) -> tuple[PyTree, _Residuals[Rows, Columns]]:
    results = _ring(block_fn, sizes, axis_name, row_inputs, column_inputs, unshifted_ok)
    return results, (row_inputs, column_inputs, unshifted_ok, results)


def _ring_bwd(
    block_fn: BlockFn[Rows, Columns],
    sizes: TableSizes,
    axis_name: MappedAxis,
    residuals: _Residuals[Rows, Columns],
    cotangents: PyTree,
) -> tuple[Rows, Columns, None]:
    row_inputs, column_inputs, unshifted_ok, results = residuals
    kinds, structure = reduction_kinds(block_fn, row_inputs, column_inputs)
    row_results, column_results = _split(kinds, structure.flatten_up_to(results))
    row_cotangents, column_cotangents = _split(kinds, structure.flatten_up_to(cotangents))
    zeros = [jax.tree.map(jnp.zeros_like, split_floats(tree)[0]) for tree in (row_inputs, column_inputs)]
    d_rows, d_columns = vary_together((zeros, row_inputs, column_inputs, cotangents))[0]

    def step(carry: _BackwardCarry[Columns], _: None) -> tuple[_BackwardCarry[Columns], None]:
        # The visiting columns with their results, cotangents and gradient so far.
        (columns, column_results, column_cotangents, d_columns), d_rows = carry
        known = jax.tree.unflatten(structure, _join(kinds, row_results, column_results))
        wanted = jax.tree.unflatten(structure, _join(kinds, row_cotangents, column_cotangents))
        more_rows, more_columns = backward_pass(block_fn, sizes, row_inputs, columns, known, wanted, unshifted_ok)
        d_rows = [x + y for x, y in zip(d_rows, jax.tree.leaves(more_rows), strict=True)]
        d_columns = [x + y for x, y in zip(d_columns, jax.tree.leaves(more_columns), strict=True)]
        return (_send_on((columns, column_results, column_cotangents, d_columns), axis_name), d_rows), None

    carry = ((column_inputs, column_results, column_cotangents, d_columns), d_rows)
    (*_, d_columns), d_rows = lax.scan(step, carry, None, length=lax.axis_size(axis_name))[0]
    return as_gradient_of(row_inputs, d_rows), as_gradient_of(column_inputs, d_columns), None


_ring.defvjp(_ring_fwd, _ring_bwd)

_BackwardCarry = tuple[tuple[Columns, list[jax.Array], list[jax.Array], list[jax.Array]], list[jax.Array]]
"""Travelling: columns with their results, cotangents and gradient. Staying: the gradient of the rows."""


def _send_on(tree: T, axis_name: MappedAxis) -> T:
    """Sends the tree to the next device of the ring."""
    count = lax.axis_size(axis_name)
    received: T = jax.tree.map(lambda x: lax.ppermute(x, axis_name, [(i, (i + 1) % count) for i in range(count)]), tree)
    return received


def _split(kinds: list[Reduction], results: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
    """Splits results into those of rows, which stay, and of columns, which travel."""
    pairs = list(zip(kinds, results, strict=True))
    return [x for kind, x in pairs if not is_per_column(kind)], [x for kind, x in pairs if is_per_column(kind)]


def _join(kinds: list[Reduction], of_rows: list[jax.Array], of_columns: list[jax.Array]) -> list[jax.Array]:
    """The results in the order of the kinds."""
    rows, columns = iter(of_rows), iter(of_columns)
    return [next(columns) if is_per_column(kind) else next(rows) for kind in kinds]


def _add(kind: Reduction, total: jax.Array, more: jax.Array) -> jax.Array:
    return total + more if isinstance(kind, Sum | ColumnSum) else jnp.logaddexp(total, more)
