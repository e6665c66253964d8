"""Columns that go round a ring of devices: none of them ever holds all columns, or all pairs.

Each device keeps its rows. Its columns, together with what has been reduced of them and, in the backward pass, with
their gradient, go round once and come home complete. The blocks are recomputed in the backward pass, in which the
columns go round again: nothing that grows with the number of devices is kept between the passes.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._blockwise.columns import Block, _forward, _gradient, _kinds, sizes
from lossfns._blockwise.reductions import ColumnLogSum, ColumnSum, Sum, are_small
from lossfns._blockwise.sizes import BlockSize, Sizes
from lossfns._blockwise.trees import common_dtype, join_gradient, split_floats, vary_alike


def stream_ring(
    block: Block,
    whole: Any,
    columns: Any,
    axis_name: str | tuple[str, ...],
    *,
    block_size: BlockSize = None,
    bound: Any = None,
) -> Any:
    """Reduce a table of the rows of this device x the columns of all devices.

    Args:
        block: As of `stream`, with reductions that are sums or log-sums. Its `index` counts the columns of one device:
            what tells columns of different devices apart belongs into `columns`.
        whole: The rows of this device, and scalars.
        columns: Pytree of arrays [M, ...], the columns of this device.
        axis_name: The mapped axis, with as many columns on each of its devices.
        block_size: As of `stream`.
        bound: As of `stream`, for the columns of all devices.

    Returns:
        The pytree of `block`: [N], over the columns of all devices, and [M], for the columns of this device over the
        rows of all.
    """
    whole, columns = vary_alike((whole, columns))
    size = sizes(block, whole, columns, block_size)
    small = None if bound is None else are_small(bound, common_dtype(whole, columns))
    return _ring(block, size, axis_name, whole, columns, small)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _ring(block: Block, size: Sizes, axis_name: Any, whole: Any, columns: Any, small: jax.Array | None) -> Any:
    kinds, structure = _kinds(block, whole, columns)
    shapes = jax.eval_shape(lambda: structure.flatten_up_to(_forward(block, size, whole, columns)))
    nothing = [
        jnp.full(x.shape, 0 if isinstance(kind, Sum | ColumnSum) else -jnp.inf, x.dtype)
        for kind, x in zip(kinds, shapes, strict=True)
    ]
    start = vary_alike((nothing, whole, columns))[0]

    def step(carry: Any, _: None) -> tuple[Any, None]:
        columns, of_rows, of_columns = carry
        more = structure.flatten_up_to(_forward(block, size, whole, columns, small=small))
        done = _join(kinds, of_rows, of_columns)
        of_rows, of_columns = _split(kinds, [_add(*given) for given in zip(kinds, done, more, strict=True)])
        columns, of_columns = _hand_on((columns, of_columns), axis_name)
        return (columns, of_rows, of_columns), None

    carry = (columns, *_split(kinds, start))
    _, of_rows, of_columns = lax.scan(step, carry, None, length=lax.axis_size(axis_name))[0]
    return structure.unflatten(_join(kinds, of_rows, of_columns))


def _ring_fwd(block: Block, size: Sizes, axis_name: Any, whole: Any, columns: Any, small: Any) -> tuple[Any, Any]:
    results = _ring(block, size, axis_name, whole, columns, small)
    return results, (whole, columns, small, results)


def _ring_bwd(block: Block, size: Sizes, axis_name: Any, residuals: Any, cotangents: Any) -> tuple[Any, Any, None]:
    whole, columns, small, results = residuals
    kinds, structure = _kinds(block, whole, columns)
    row_results, column_results = _split(kinds, structure.flatten_up_to(results))
    row_slopes, column_slopes = _split(kinds, structure.flatten_up_to(cotangents))
    zeros = [jax.tree.map(jnp.zeros_like, split_floats(tree)[0]) for tree in (whole, columns)]
    d_whole, d_columns = vary_alike((zeros, whole, columns, cotangents))[0]

    def step(carry: Any, _: None) -> tuple[Any, None]:
        (columns, column_results, column_slopes, d_columns), d_whole = carry
        known = structure.unflatten(_join(kinds, row_results, column_results))
        slopes = structure.unflatten(_join(kinds, row_slopes, column_slopes))
        more, more_columns = _gradient(block, size, small, whole, columns, known, slopes)
        d_whole = [x + y for x, y in zip(d_whole, jax.tree.leaves(more), strict=True)]
        d_columns = [x + y for x, y in zip(d_columns, jax.tree.leaves(more_columns), strict=True)]
        return (_hand_on((columns, column_results, column_slopes, d_columns), axis_name), d_whole), None

    carry = ((columns, column_results, column_slopes, d_columns), d_whole)
    (*_, d_columns), d_whole = lax.scan(step, carry, None, length=lax.axis_size(axis_name))[0]
    return join_gradient(whole, d_whole), join_gradient(columns, d_columns), None


_ring.defvjp(_ring_fwd, _ring_bwd)


def _hand_on(tree: Any, axis_name: Any) -> Any:
    """Everything of the device before."""
    count = lax.axis_size(axis_name)
    return jax.tree.map(lambda x: lax.ppermute(x, axis_name, [(i, (i + 1) % count) for i in range(count)]), tree)


def _of_columns(kind: Any) -> bool:
    return isinstance(kind, ColumnLogSum | ColumnSum)


def _split(kinds: list[Any], results: list[Any]) -> tuple[list[Any], list[Any]]:
    """Results of rows, which stay, and of columns, which travel."""
    pairs = list(zip(kinds, results, strict=True))
    return [x for kind, x in pairs if not _of_columns(kind)], [x for kind, x in pairs if _of_columns(kind)]


def _join(kinds: list[Any], of_rows: list[Any], of_columns: list[Any]) -> list[Any]:
    rows, columns = iter(of_rows), iter(of_columns)
    return [next(columns) if _of_columns(kind) else next(rows) for kind in kinds]


def _add(kind: Any, total: jax.Array, more: jax.Array) -> jax.Array:
    return total + more if isinstance(kind, Sum | ColumnSum) else jnp.logaddexp(total, more)
