"""Pytrees of floats and integers: dtypes, floating leaves, and the mapped axes that arrays vary over."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._contract import accumulation_dtype

PyTree: TypeAlias = Any
"""Any nest of tuples, lists, dictionaries and dataclasses of arrays. A type variable is used instead where the caller's
type is kept; this stands for structures that follow from a value, which Python's types cannot express."""

T = TypeVar("T")


def varying_axes(tree: PyTree) -> set[str]:
    """The mapped axes that any array of a pytree varies over, as tracked by `shard_map`."""
    axes: set[str] = set()
    return axes.union(*(jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(tree)))


def mark_varying(tree: T, axes: set[str]) -> T:
    """Marks all arrays as varying over these axes as well."""

    def mark(x: jax.Array) -> jax.Array:
        missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
        return lax.pcast(x, missing, to="varying") if missing else x

    marked: T = jax.tree.map(mark, tree)
    return marked


def vary_together(tree: T) -> T:
    """Marks all arrays as varying over every mapped axis that any of them varies over.

    `shard_map` requires this of the carry of a loop and of the results of two branches.
    """
    return mark_varying(tree, varying_axes(tree))


def common_dtype(*trees: PyTree) -> jnp.dtype:
    """The accumulation dtype: float64 if any leaf is, else float32."""
    return accumulation_dtype(*(jnp.asarray(x) for x in jax.tree.leaves(trees)))


def widened_dtype(x: jax.Array, dtype: jnp.dtype) -> jnp.dtype:
    """`dtype` for a floating array, its own dtype for others."""
    return dtype if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype


def widen(tree: T, dtype: jnp.dtype) -> T:
    """Converts the floating leaves to `dtype`."""
    widened: T = jax.tree.map(lambda x: jnp.asarray(x).astype(widened_dtype(jnp.asarray(x), dtype)), tree)
    return widened


def split_floats(tree: T) -> tuple[list[jax.Array], Callable[[list[jax.Array]], T]]:
    """The floating leaves, and a function that replaces them."""
    leaves, structure = jax.tree.flatten(tree)
    floating = [jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating) for x in leaves]

    def join(floats: list[jax.Array]) -> T:
        replacements = iter(floats)
        merged = [next(replacements) if is_float else x for x, is_float in zip(leaves, floating, strict=True)]
        joined: T = jax.tree.unflatten(structure, merged)
        return joined

    return [x for x, is_float in zip(leaves, floating, strict=True) if is_float], join


def as_gradient_of(tree: T, floats: list[jax.Array]) -> T:
    """The gradient in the structure and dtypes of `tree`, from those of its floats; None at integers."""
    leaves, structure = jax.tree.flatten(tree)
    grads = iter(floats)
    gradient: T = jax.tree.unflatten(
        structure,
        [next(grads).astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else None for x in leaves],
    )
    return gradient
