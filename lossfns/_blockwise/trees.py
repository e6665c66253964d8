"""Pytrees of floats and integers, cut into blocks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._contract import accumulation_dtype


def vary_alike(tree: Any) -> Any:
    """Mark all arrays as varying over every mapped axis that any of them varies over, as `shard_map` demands."""
    axes: set[Any] = set().union(*(jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(tree)))
    if not axes:
        return tree

    def vary(x: Any) -> Any:
        missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(vary, tree)


def common_dtype(*trees: Any) -> jnp.dtype:
    return accumulation_dtype(*(jnp.asarray(x) for x in jax.tree.leaves(trees)))


def wide(x: Any, dtype: Any) -> Any:
    return dtype if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype


def widen(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x).astype(wide(jnp.asarray(x), dtype)), tree)


def split_floats(tree: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """The floating leaves, and how to put others in their place."""
    leaves, structure = jax.tree.flatten(tree)
    floating = [jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating) for x in leaves]

    def join(floats: list[jax.Array]) -> Any:
        given = iter(floats)
        merged = [next(given) if is_float else x for x, is_float in zip(leaves, floating, strict=True)]
        return jax.tree.unflatten(structure, merged)

    return [x for x, is_float in zip(leaves, floating, strict=True) if is_float], join


def join_gradient(tree: Any, floats: list[jax.Array]) -> Any:
    """The gradient in the structure and dtypes of `tree`, None at integers."""
    leaves, structure = jax.tree.flatten(tree)
    given = iter(floats)
    slopes = [next(given).astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else None for x in leaves]
    return jax.tree.unflatten(structure, slopes)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Equal blocks of the columns, the last one moved back to end with them."""

    columns: Any
    size: int

    @property
    def count(self) -> int:
        return jax.tree.leaves(self.columns)[0].shape[0]

    def part(self, i: Any, dtype: Any) -> tuple[Any, jax.Array, jax.Array | None]:
        """Block i in `dtype`, the numbers of its columns, and which no block before it had (None for all)."""
        start = jnp.minimum(i * self.size, self.count - self.size)
        index = start + jnp.arange(self.size)
        part = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, self.size), self.columns)
        return widen(part, dtype), index, None if self.size and self.count % self.size == 0 else index >= i * self.size

    def scan(self, step: Any, carry: Any) -> Any:
        steps = -(-self.count // self.size) if self.size else 0
        if steps == 1:
            return step(carry, jnp.int32(0))[0]
        return lax.scan(step, carry, jnp.arange(steps))[0]


def set_at(total: jax.Array, x: jax.Array, start: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(total, x.astype(total.dtype), start, 0)


def add_at(total: jax.Array, x: jax.Array, start: jax.Array, overlap: bool = True) -> jax.Array:
    """Written once, unless blocks overlap: what is there already is then added to, by zeros."""
    if overlap:
        x = x + lax.dynamic_slice_in_dim(total, start, len(x)).astype(x.dtype)
    return set_at(total, x, start)
