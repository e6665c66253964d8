"""Parameter trees: their floating arrays, in one dtype."""

from typing import Any

import jax
import jax.numpy as jnp

from lossfns._contract import accumulation_dtype, check_array

PyTree = Any


def leaves(name: str, tree: PyTree) -> tuple[list[jax.Array], jnp.dtype]:
    """The arrays of a pytree, checked and named by their paths, and the accumulation dtype."""
    found = [
        check_array(name + jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    dtype = accumulation_dtype(*found)
    return [leaf.astype(dtype) for leaf in found], dtype


def check_structure(name: str, tree: PyTree, like: PyTree, of: str) -> None:
    """Raises unless two pytrees have the same structure."""
    ours, theirs = str(jax.tree.structure(tree)), str(jax.tree.structure(like))
    if ours != theirs:
        raise ValueError(f"{name} must have the structure of {of}, {theirs}, got {ours}")
