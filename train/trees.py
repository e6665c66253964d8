"""Pytrees: names for their types, and small functions of their leaves."""

from typing import Any, TypeGuard

import jax
import jax.numpy as jnp

Tree = Any
"""Any pytree of arrays: nested dicts, lists, tuples, registered classes."""
Params = Tree
"""Parameters, or a tree of the same structure."""
Batch = Tree
"""A batch of data: arrays with the examples on their leading axis."""


def is_key(leaf: Any) -> TypeGuard[jax.Array]:
    """Whether a leaf is an array of PRNG keys.

    >>> is_key(jax.random.key(0)), is_key(jax.random.key_data(jax.random.key(0)))
    (True, False)
    """
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def widen(leaf: Any) -> jax.Array:
    """Real numbers in at least float32; an array of anything else as it is.

    >>> widen(jnp.ones(2, jnp.bfloat16)).dtype, widen(jnp.ones(2, bool)).dtype
    (dtype('float32'), dtype('bool'))
    """
    array = jnp.asarray(leaf)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return array
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def shapes_of(tree: Tree) -> str:
    """The shapes of a tree's leaves in its structure, for a message.

    >>> shapes_of({"x": jnp.ones((2, 3))})
    "{'x': (2, 3)}"
    """
    return str(jax.tree.map(jnp.shape, tree))
