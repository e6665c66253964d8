"""Pytrees of floats and integers, cut into blocks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._contract import accumulation_dtype


def varying_axes(tree: Any) -> set[Any]:
    """The mapped axes that any array of a pytree varies over, as far as `shard_map` keeps track of it."""
    return set().union(*(jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(tree)))


def vary(tree: Any, axes: set[Any]) -> Any:
    """Mark all arrays as varying over these axes as well."""

    def mark(x: Any) -> Any:
        missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(mark, tree)


def vary_alike(tree: Any) -> Any:
    """Mark all arrays as varying over every mapped axis that any of them varies over, as `shard_map` demands."""
    return vary(tree, varying_axes(tree))


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
    """Equal blocks of an axis of arrays, the last one moved back to end with it; scalars are in every block."""

    arrays: Any
    size: int
    axis: int = 0
    length: int | None = None
    """Of the axis; None asks the first array."""

    @property
    def count(self) -> int:
        if self.length is not None:
            return self.length
        return next(x.shape[self.axis] for x in jax.tree.leaves(self.arrays) if jnp.ndim(x))

    def part(self, i: Any, dtype: Any) -> tuple[Any, jax.Array, jax.Array | None]:
        """Block i in `dtype`, the places of its entries, and which no block before it had (None for all)."""
        index, fresh = self.place(i)
        start = index[0] if self.size else 0
        part = jax.tree.map(lambda x: get_at(x, start, self.size, self.axis) if jnp.ndim(x) else x, self.arrays)
        return widen(part, dtype), index, fresh

    def place(self, i: Any) -> tuple[jax.Array, jax.Array | None]:
        """The places of the entries of block i, and which of them no block before it had."""
        index = jnp.minimum(i * self.size, self.count - self.size) + jnp.arange(self.size)
        return index, None if self.size and self.count % self.size == 0 else index >= i * self.size

    def scan(self, step: Any, carry: Any, active: jax.Array | None = None) -> Any:
        """The carry after all blocks, or, where `active` is False, as it was."""
        steps = -(-self.count // self.size) if self.size else 0
        if steps == 0:
            return carry
        if active is not None:
            return lax.fori_loop(0, jnp.where(active, steps, 0), lambda i, carry: step(carry, i)[0], carry)
        if steps == 1:
            return step(carry, jnp.int32(0))[0]
        return lax.scan(step, carry, jnp.arange(steps))[0]


def is_half(x: jax.Array) -> bool:
    """Whether these are floats of 16 bits."""
    return jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits == 16


def get_at(x: jax.Array, start: Any, size: int, axis: int = 0) -> jax.Array:
    """Part of an array."""
    if is_half(x):
        return _half_at(x, jnp.asarray(start), size, axis)
    return lax.dynamic_slice_in_dim(x, start, size, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _half_at(x: jax.Array, start: jax.Array, size: int, axis: int) -> jax.Array:
    # To slice halves, XLA's CPU compiler makes the whole array float32; as integers it lets them be.
    bits = lax.dynamic_slice_in_dim(lax.bitcast_convert_type(x, jnp.uint16), start, size, axis)
    return lax.bitcast_convert_type(bits, x.dtype)


@_half_at.defjvp
def _half_at_jvp(size: int, axis: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return _half_at(*primals, size, axis), lax.dynamic_slice_in_dim(tangents[0], primals[1], size, axis)


def expand(mask: jax.Array, x: jax.Array) -> jax.Array:
    """A mask over the first axis, ready to broadcast with `x`."""
    return mask.reshape(-1, *(1,) * (x.ndim - 1))


def set_at(total: jax.Array, x: jax.Array, start: jax.Array, axis: int = 0) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(total, x.astype(total.dtype), start, axis)


def add_at(total: jax.Array, x: jax.Array, start: jax.Array, overlap: bool = True, axis: int = 0) -> jax.Array:
    """Written once, unless blocks overlap: what is there already is then added to, by zeros."""
    if overlap:
        x = x + get_at(total, start, x.shape[axis], axis).astype(x.dtype)
    return set_at(total, x, start, axis)
