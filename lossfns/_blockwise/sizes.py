"""Block sizes: one rule, from shapes, for every table.

A table is cut into even blocks of at most `CACHED` scores on CPU (4 MiB in float32, which fit its caches) and
`LAUNCHED` elsewhere (16 MiB, enough work per kernel launch), unless `block_size` is given. Compiled for H100, the
losses over pairs hold fewer than three blocks at a time.

Off CPU a block has all rows and at least `REUSED` columns, so that products dominate over reading rows. Rows are then
never sliced: if they are sharded in the global view of `jit`, each device computes its own, where a slice would gather
them all.

The platform is the one the program is lowered for (`jax.lax.platform_dependent`), not the one that traces it, which may
compile or export for others.
"""

import functools
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from jax import lax

from lossfns._blockwise.pytrees import PyTree

BlockSize = int | tuple[int, int] | None
"""Block size as requested: columns, columns and rows, or the default."""

Size = TypeVar("Size")
"""Size of a block: columns and rows, or one number."""

T = TypeVar("T")

CACHED = 2**20
LAUNCHED = 2**22
REUSED = 512
_LEAST = 128
"""Columns or rows below which matrix products are slow."""


class BlockSizes(NamedTuple, Generic[Size]):
    """The size of a block on each platform."""

    cpu: Size
    default: Size


TableSizes = BlockSizes[tuple[int, int]]
"""Columns and rows."""


def on_platform(sizes: BlockSizes[Size], function: Callable[..., T], *operands: PyTree) -> T:
    """`function(size, *operands)` with the size of the platform the program is lowered for."""
    if sizes.cpu == sizes.default:
        return function(sizes.cpu, *operands)
    cpu, default = (functools.partial(function, size) for size in sizes)
    result: T = lax.platform_dependent(*operands, cpu=cpu, default=default)
    return result


def table_sizes(columns: int, rows: int, block_size: BlockSize, *, all_rows: bool = False) -> TableSizes:
    """Columns and rows per block of a table.

    Args:
        columns: Columns in the table.
        rows: Rows in the table.
        block_size: None cuts rows to the side of a square block on CPU and takes all rows elsewhere, with as many
            columns as fit. One number is columns; two are columns and rows.
        all_rows: Whether each block must have all rows on CPU too.
    """
    if isinstance(block_size, tuple):
        size = min(block_size[0], columns), min(block_size[1], rows)
        return BlockSizes(size, size)
    if block_size is not None:
        block_rows = rows if all_rows else even_size(rows, max(CACHED // block_size, _LEAST))
        return BlockSizes((min(block_size, columns), block_rows), (min(block_size, columns), rows))
    block_rows = rows if all_rows else even_size(rows, _side(CACHED))
    cpu = even_size(columns, _columns(CACHED, block_rows, _LEAST)), block_rows
    return BlockSizes(cpu, (even_size(columns, _columns(LAUNCHED, rows, REUSED)), rows))


def _columns(scores: int, rows: int, least: int) -> int:
    """Columns per block of about `scores` scores: a multiple of `_LEAST`."""
    return max(scores // max(rows, 1) // _LEAST * _LEAST, least)


def triangle_sizes(items: int, block_size: int | None) -> BlockSizes[int]:
    """Items per block of a symmetric table."""
    if block_size is not None:
        return BlockSizes(min(block_size, items), min(block_size, items))
    return BlockSizes(*(even_size(items, _side(scores)) for scores in (CACHED, LAUNCHED)))


def even_size(count: int, most: int) -> int:
    """The block size, at most `most`, that fills the smallest number of blocks evenly."""
    return -(-count // -(-count // most)) if count else 0


def _side(scores: int) -> int:
    return int(scores**0.5)
