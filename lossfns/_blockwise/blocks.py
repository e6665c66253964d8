"""Equal blocks of arrays along one axis, read and written in place."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._blockwise.pytrees import widen

T = TypeVar("T")
Carry = TypeVar("Carry")


@dataclasses.dataclass(frozen=True)
class Blocks(Generic[T]):
    """Equal blocks of an axis of a pytree of arrays; scalars are in every block.

    The last block is moved back to end with the axis; entries it shares with the previous block are no first visit.
    """

    arrays: T
    size: int
    axis: int = 0
    length: int | None = None
    """Length of the axis; None reads it from the first array."""

    @property
    def count(self) -> int:
        """Length of the axis."""
        if self.length is not None:
            return self.length
        count: int = next(x.shape[self.axis] for x in jax.tree.leaves(self.arrays) if jnp.ndim(x))
        return count

    @property
    def steps(self) -> int:
        """Number of blocks."""
        return -(-self.count // self.size) if self.size else 0

    def block(self, i: jax.Array, dtype: jnp.dtype) -> tuple[T, jax.Array, jax.Array | None]:
        """Block i in `dtype`, the indices of its entries, and which of them are a first visit (None for all)."""
        index, first_visit = self.indices(i)
        start = index[0] if self.size else 0
        block: T = jax.tree.map(lambda x: get_at(x, start, self.size, self.axis) if jnp.ndim(x) else x, self.arrays)
        return widen(block, dtype), index, first_visit

    def indices(self, i: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """The indices of the entries of block i, and which of them are a first visit (None for all)."""
        index = jnp.minimum(i * self.size, self.count - self.size) + jnp.arange(self.size)
        return index, None if self.size and self.count % self.size == 0 else index >= i * self.size

    def scan(
        self, step: Callable[[Carry, jax.Array], tuple[Carry, None]], carry: Carry, active: jax.Array | None = None
    ) -> Carry:
        """The carry after one step per block; unchanged if `active` is False."""
        if self.steps == 0:
            return carry
        if active is not None:
            looped: Carry = lax.fori_loop(
                0, jnp.where(active, self.steps, 0), lambda i, carry: step(carry, i)[0], carry
            )
            return looped
        if self.steps == 1:
            return step(carry, jnp.int32(0))[0]
        return lax.scan(step, carry, jnp.arange(self.steps))[0]


def is_half(x: jax.Array) -> bool:
    """Whether the dtype is a 16-bit float."""
    return jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits == 16


def get_at(x: jax.Array, start: jax.Array | int, size: int, axis: int = 0) -> jax.Array:
    """`size` entries of an axis from `start` on."""
    if is_half(x):
        half: jax.Array = _half_at(x, jnp.asarray(start), size, axis)
        return half
    return lax.dynamic_slice_in_dim(x, start, size, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _half_at(x: jax.Array, start: jax.Array, size: int, axis: int) -> jax.Array:
    # XLA on CPU converts the whole array to float32 before slicing 16-bit floats, but not before slicing integers.
    bits = lax.dynamic_slice_in_dim(lax.bitcast_convert_type(x, jnp.uint16), start, size, axis)
    return lax.bitcast_convert_type(bits, x.dtype)


@_half_at.defjvp
def _half_at_jvp(
    size: int, axis: int, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return _half_at(*primals, size, axis), lax.dynamic_slice_in_dim(tangents[0], primals[1], size, axis)


def expand_mask(mask: jax.Array, x: jax.Array) -> jax.Array:
    """A mask over the first axis of `x`, broadcastable with it."""
    return mask.reshape(-1, *(1,) * (x.ndim - 1))


def set_at(total: jax.Array, x: jax.Array, start: jax.Array, axis: int = 0) -> jax.Array:
    """Writes `x` at `start`."""
    return lax.dynamic_update_slice_in_dim(total, x.astype(total.dtype), start, axis)


def add_at(total: jax.Array, x: jax.Array, start: jax.Array, overlap: bool = True, axis: int = 0) -> jax.Array:
    """Adds `x` at `start`; without `overlap`, each entry is written once and the read is skipped."""
    if overlap:
        x = x + get_at(total, start, x.shape[axis], axis).astype(x.dtype)
    return set_at(total, x, start, axis)
