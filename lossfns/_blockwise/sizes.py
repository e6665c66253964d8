"""How large blocks are: one rule, from shapes, for every table.

A block is evenly cut and holds at most `CACHED` scores on CPU (4 MiB in float32, which stay in its caches) and
`LAUNCHED` elsewhere (16 MiB: enough work to pay for starting a kernel, and for reading operands), whatever the shapes,
unless `block_size` says otherwise. Compiled for H100, the losses over pairs hold fewer than three of them at a time.

The platform is that for which the program is lowered, by `jax.lax.platform_dependent`. The host that traces it does not
count: it may compile, or export, for others.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from jax import lax

BlockSize = int | tuple[int, int] | None
Size = Any
"""Columns and rows, or one number for both."""

CACHED = 2**20
LAUNCHED = 2**22
_LEAST = 128
"""Columns or rows, below which products are no longer worth while."""


class Sizes(NamedTuple):
    """Of a block, by platform."""

    cpu: Size
    default: Size


def on_platform(sizes: Sizes, function: Callable[..., Any], *given: Any) -> Any:
    """`function(size, *given)` with the size of the platform that the program is lowered for."""
    if sizes.cpu == sizes.default:
        return function(sizes.cpu, *given)
    cpu, default = (functools.partial(function, size) for size in sizes)
    return lax.platform_dependent(*given, cpu=cpu, default=default)


def of_table(columns: int, rows: int, block_size: BlockSize, *, whole_rows: bool = False) -> Sizes:
    """Columns and rows in a block of a table.

    Args:
        columns: In the table.
        rows: In the table.
        block_size: None cuts rows to the side of a square block, and takes as many columns as its scores allow. A
            number is that of columns; two are those of columns and rows.
        whole_rows: Whether a block must have all rows.
    """
    return Sizes(*(_of_table(columns, rows, block_size, whole_rows, scores) for scores in (CACHED, LAUNCHED)))


def _of_table(columns: int, rows: int, block_size: BlockSize, whole_rows: bool, scores: int) -> tuple[int, int]:
    if isinstance(block_size, tuple):
        return min(block_size[0], columns), min(block_size[1], rows)
    if block_size is not None:
        most = max(scores // block_size, _LEAST)
        return min(block_size, columns), rows if whole_rows else even(rows, most)
    some = rows if whole_rows else even(rows, _side(scores))
    return even(columns, max(scores // max(some, 1) // _LEAST * _LEAST, _LEAST)), some


def of_triangle(items: int, block_size: int | None) -> Sizes:
    """Items in a block of a symmetric table."""
    if block_size is not None:
        return Sizes(min(block_size, items), min(block_size, items))
    return Sizes(*(even(items, _side(scores)) for scores in (CACHED, LAUNCHED)))


def even(count: int, size: int) -> int:
    """The size, at most this, of as many blocks that are evenly filled."""
    return -(-count // -(-count // size)) if count else 0


def _side(scores: int) -> int:
    return int(scores**0.5)
