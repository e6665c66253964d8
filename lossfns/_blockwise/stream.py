"""Differentiable passes over tables of rows x columns, on one device or with the columns sharded.

The path of `stream`, without and with expected cotangents:

    stream -> _stream              forward_pass: for each block, `block_fn` and `merge`
              _stream_bwd          backward_pass: for each block, `block_fn` again and `scores_cotangent`
    stream -> gradient_in_forward  forward_pass, if no derivative is taken
                                   differentiate_blocks, which computes value and gradient at once
                                   differentiate_blocks again, if the cotangents are not a multiple of the expected ones
"""

import functools
from collections.abc import Callable

import jax
from jax import lax

from lossfns._blockwise.forward_gradient import gradient_in_forward
from lossfns._blockwise.pytrees import PyTree, T, common_dtype, mark_varying, vary_together, varying_axes
from lossfns._blockwise.reductions import combine_devices, exp_cannot_overflow
from lossfns._blockwise.sizes import BlockSize, TableSizes
from lossfns._blockwise.table import (
    BlockFn,
    Columns,
    Rows,
    backward_pass,
    block_sizes,
    differentiate_blocks,
    forward_pass,
    reduction_kinds,
)
from lossfns._contract import AxisName


def stream(
    block_fn: BlockFn[Rows, Columns],
    row_inputs: Rows,
    column_inputs: Columns,
    *,
    block_size: BlockSize = None,
    bound: jax.Array | float | None = None,
    expected: PyTree | None = None,
    axis_name: AxisName = None,
) -> PyTree:
    """Reduces a table of scores block by block.

    Args:
        block_fn: `block_fn(rows, columns, index)` returns a pytree of reductions. It must not close over traced values.
            Floating arrays are passed in float32 or wider.
        row_inputs: Pytree of arrays [..., N], passed in blocks of rows, and of scalars, such as a temperature, passed
            to every block.
        column_inputs: Pytree of arrays [M, ...], passed in blocks of C columns.
        block_size: Columns C per block, or columns and rows; None to fit a fast cache. Values and gradients do
            not depend on it.
        bound: An upper bound on the magnitude of finite scores of a `LogSum` or `ColumnLogSum`. If no exponential of it
            can overflow, sums need no maxima, and one exponential serves all reductions of a score. Chosen at run time.
        expected: Expected cotangents of the results, for reductions that are sums. The gradient is computed in the
            forward pass and valid for any multiple of them. None recomputes the blocks in the backward pass.
        axis_name: A mapped axis that the columns are sharded over; rows are the same on all devices. Results of rows
            then cover the columns of all devices and are the same on each; so must their cotangents be. The gradient of
            `row_inputs`, and of local columns, is complete on each device.

    Returns:
        The pytree of `block_fn` with an array for each reduction: [N] or [M].
    """
    if axis_name is None:
        row_inputs, column_inputs, expected = vary_together((row_inputs, column_inputs, expected))
    else:
        row_inputs, column_inputs = _mark_columns_varying(axis_name, row_inputs, column_inputs)
    sizes = block_sizes(block_fn, row_inputs, column_inputs, block_size)
    if expected is None:
        unshifted_ok = None if bound is None else exp_cannot_overflow(bound, common_dtype(row_inputs, column_inputs))
        return _stream(block_fn, sizes, axis_name, row_inputs, column_inputs, unshifted_ok)

    def value_and_gradient(arguments: tuple[Rows, Columns], expected: PyTree) -> tuple[PyTree, tuple[Rows, Columns]]:
        return differentiate_blocks(block_fn, sizes, *arguments, None, expected)

    def gradient(
        arguments: tuple[Rows, Columns],
        cotangents: PyTree,
        start: tuple[Rows, Columns] | None,
        active: jax.Array | None,
    ) -> tuple[Rows, Columns]:
        return differentiate_blocks(block_fn, sizes, *arguments, None, cotangents, start, active)[1]

    value = functools.partial(forward_pass, block_fn, sizes)
    return gradient_in_forward(value, value_and_gradient, gradient, expected, (row_inputs, column_inputs))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _stream(
    block_fn: BlockFn[Rows, Columns],
    sizes: TableSizes,
    axis_name: AxisName,
    row_inputs: Rows,
    column_inputs: Columns,
    unshifted_ok: jax.Array | None = None,
) -> PyTree:
    results = forward_pass(block_fn, sizes, row_inputs, column_inputs, unshifted_ok=unshifted_ok)
    if axis_name is None:
        return results
    kinds, structure = reduction_kinds(block_fn, row_inputs, column_inputs)
    pairs = zip(kinds, structure.flatten_up_to(results), strict=True)
    return jax.tree.unflatten(structure, [combine_devices(kind, result, axis_name) for kind, result in pairs])


_Residuals = tuple[Rows, Columns, jax.Array | None, PyTree]
"""Row and column inputs, `unshifted_ok`, and the results."""


def _stream_fwd(
    block_fn: BlockFn[Rows, Columns],
    sizes: TableSizes,
    axis_name: AxisName,
    row_inputs: Rows,
    column_inputs: Columns,
    unshifted_ok: jax.Array | None,
) -> tuple[PyTree, _Residuals[Rows, Columns]]:
    # `_stream`, not its body: this pass may itself be differentiated, by the same rule.
    results = _stream(block_fn, sizes, axis_name, row_inputs, column_inputs, unshifted_ok)
    return results, (row_inputs, column_inputs, unshifted_ok, results)


def _stream_bwd(
    block_fn: BlockFn[Rows, Columns],
    sizes: TableSizes,
    axis_name: AxisName,
    residuals: _Residuals[Rows, Columns],
    cotangents: PyTree,
) -> tuple[Rows, Columns, None]:
    row_inputs, column_inputs, unshifted_ok, results = residuals
    d_row_inputs, d_column_inputs = backward_pass(
        block_fn, sizes, row_inputs, column_inputs, results, cotangents, unshifted_ok
    )
    if axis_name is not None:
        d_row_inputs = _psum_replicated(row_inputs, d_row_inputs, axis_name)
    return d_row_inputs, d_column_inputs, None


_stream.defvjp(_stream_fwd, _stream_bwd)


def gradient_of(
    block_fn: BlockFn[Rows, Columns],
    row_inputs: Rows,
    column_inputs: Columns,
    cotangents: Callable[[PyTree], PyTree],
    start: tuple[Rows, Columns] | None = None,
    active: jax.Array | None = None,
) -> tuple[Rows, Columns]:
    """The gradient of `stream`, computed here after its own forward pass, and added to `start` in place.

    `cotangents` are a function of the results. Unless `active`, both loops run zero times and the gradient is `start`.

    Returns:
        The gradients of `row_inputs` and `column_inputs`, None at integers.
    """
    sizes = block_sizes(block_fn, row_inputs, column_inputs, None)
    if active is None:  # by the rule of `stream`, since this gradient may be differentiated
        results = _stream(block_fn, sizes, None, row_inputs, column_inputs)
    else:
        results = forward_pass(block_fn, sizes, row_inputs, column_inputs, active)
    operands = row_inputs, column_inputs, results, cotangents(results)
    return differentiate_blocks(block_fn, sizes, *operands, start, active)[1]


def _mark_columns_varying(
    axis_name: str | tuple[str, ...], row_inputs: Rows, column_inputs: Columns
) -> tuple[Rows, Columns]:
    """Marks columns as device-varying over `axis_name`; rows keep their marking. Other axes as in `vary_together`."""
    names = {*axis_name} if isinstance(axis_name, tuple) else {axis_name}
    axes = varying_axes((row_inputs, column_inputs))
    if not axes:  # outside of shard_map, or without check_vma
        return row_inputs, column_inputs
    return mark_varying(row_inputs, axes - names), mark_varying(column_inputs, axes | names)


def _psum_replicated(inputs: T, grads: T, axis_name: str | tuple[str, ...]) -> T:
    """Sums the gradients of replicated inputs over the devices; keeps those of device-local inputs."""
    leaves, structure = jax.tree.flatten(inputs, is_leaf=lambda x: x is None)
    own = jax.tree.leaves(grads, is_leaf=lambda x: x is None)
    summed: T = jax.tree.unflatten(
        structure,
        [
            dx if dx is None or _is_device_local(x, axis_name) else lax.psum(dx, axis_name)
            for x, dx in zip(leaves, own, strict=True)
        ],
    )
    return summed


def _is_device_local(x: jax.Array, axis_name: str | tuple[str, ...]) -> bool:
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    return not jax.typeof(x).manual_axis_type.varying.isdisjoint(names)
