"""Rows in groups: what lies between a row and its result is held for a few rows at a time."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from lossfns._blockwise.sizes import Sizes, on_platform

T = TypeVar("T")


def map_rows(function: Callable[[Any], T], rows: Any, entries: int) -> T:
    """`function(rows)`, for a group of rows at a time; all but what it asks to `keep` is computed again for gradients.

    Args:
        function: `function(part)` returns a pytree of arrays whose first axis is the one of the rows in `part`; a row's
            results depend on no other row of the part. It may read other arrays, which are differentiated as well.
        rows: Pytree of arrays [N, ...].
        entries: How many numbers the function holds for each row, such as M D for the differences from M others.

    Returns:
        What `function(rows)` returns.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    sizes = Sizes(*(_group(count, numbers // max(entries, 1)) for numbers in (HELD_ON_CPU, HELD)))
    return on_platform(sizes, functools.partial(_by_groups, function, count), rows)


HELD_ON_CPU, HELD = 2**17, 2**22
"""Numbers that a group of rows may hold: what stays in the caches of a CPU, what fills other devices."""


def _group(count: int, most: int) -> int:
    """Rows in a group."""
    size = min(max(most, 1), count)
    # Groups that are all full need no copy of the results.
    return next((n for n in range(size, (size - 1) // 2, -1) if n and count % n == 0), size)


def _by_groups(function: Callable[[Any], T], count: int, size: int, rows: Any) -> T:
    if size == count:
        return function(rows)
    steps = -(-count // size)

    def grouped(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, steps * size - count)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(steps, size, *x.shape[1:])

    again = jax.checkpoint(function, policy=jax.checkpoint_policies.save_only_these_names(_KEPT))
    results = lax.map(again, jax.tree.map(grouped, rows))
    return jax.tree.map(lambda x: x.reshape(steps * size, *x.shape[2:])[:count], results)


def keep(x: jax.Array) -> jax.Array:
    """`x`, within the function of `map_rows`: held for all rows, where computing it again would take too long."""
    return checkpoint_name(x, _KEPT)


_KEPT = "kept by map_rows"
