"""Functions of rows, a group of rows at a time: intermediate arrays are never materialised for all rows."""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from lossfns._blockwise.sizes import BlockSizes, on_platform

Rows = TypeVar("Rows")
Results = TypeVar("Results")


def map_rows(function: Callable[[Rows], Results], rows: Rows, entries: int) -> Results:
    """Computes `function(rows)` a group of rows at a time; gradients recompute all arrays not marked by `keep`.

    Args:
        function: Takes some rows and returns a pytree of arrays with one entry per row along the first axis,
            independent of other rows. It may close over other arrays, which are differentiated too.
        rows: Pytree of arrays [N, ...].
        entries: Numbers the function stores per row, such as M D for differences from M others.

    Returns:
        The result of `function(rows)`.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    sizes = BlockSizes(*(_group_size(count, numbers // max(entries, 1)) for numbers in (HELD_ON_CPU, HELD)))
    return on_platform(sizes, functools.partial(_by_groups, function, count), rows)


HELD_ON_CPU, HELD = 2**17, 2**22
"""Numbers that a group of rows may store: few enough for a CPU's caches, enough to occupy other devices."""


def _group_size(count: int, most: int) -> int:
    size = min(max(most, 1), count)
    # With full groups the results need no copy.
    return next((n for n in range(size, (size - 1) // 2, -1) if n and count % n == 0), size)


def _by_groups(function: Callable[[Rows], Results], count: int, size: int, rows: Rows) -> Results:
    if size == count:
        return function(rows)
    steps = -(-count // size)

    def grouped(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, steps * size - count)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(steps, size, *x.shape[1:])

    rematerialized = jax.checkpoint(function, policy=jax.checkpoint_policies.save_only_these_names(_KEPT))
    by_group = lax.map(rematerialized, jax.tree.map(grouped, rows))
    results: Results = jax.tree.map(lambda x: x.reshape(steps * size, *x.shape[2:])[:count], by_group)
    return results


def keep(x: jax.Array) -> jax.Array:
    """Within the function of `map_rows`: stores `x` for all rows, where recomputing it would take too long."""
    kept: jax.Array = checkpoint_name(x, _KEPT)
    return kept


_KEPT = "kept by map_rows"
