"""Paths of the leaves of any parameter tree, such as `encoder/layer_0/kernel`.

Decay masks, layer-wise rates, freezing and pruning choose parameters by regular expressions searched in them.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.errors import UsageError
from train.trees import Tree

_SHOWN_PATHS = 8


def path_of(key_path: tuple[Any, ...]) -> str:
    """The path of a leaf as one string: keys, indices and attribute names joined by slashes; empty for a single leaf.

    >>> tree = {"encoder": [{"kernel": 1.0}]}
    >>> [path_of(keys) for keys, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    ['encoder/0/kernel']
    """
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def check_leaves(tree: Tree, name: str, kinds: tuple[Any, ...], advice: str) -> None:
    """Raises UsageError unless every leaf is a number or an array of some kinds of dtype (as in `jnp.issubdtype`).

    >>> check_leaves({"text": "abc"}, "the batch", (np.number,), "Encode text.")
    Traceback (most recent call last):
    train.errors.UsageError: the batch holds str at 'text'. Encode text.
    """
    for i, leaf in enumerate(jax.tree.leaves(tree)):
        dtype = _dtype(leaf)
        if not _is_of(dtype, kinds):
            found = type(leaf).__name__ if dtype is None else f"an array of dtype {dtype}"
            at = paths_of(tree)[i]
            raise UsageError(f"{name} holds {found}{f' at {at!r}' if at else ''}. {advice}")


def _dtype(leaf: Any) -> Any:
    """The dtype of anything JAX accepts as an array, otherwise None."""
    if isinstance(leaf, (np.ndarray, np.generic, jax.Array, jax.ShapeDtypeStruct)):
        return leaf.dtype
    return np.asarray(leaf).dtype if isinstance(leaf, (bool, int, float, complex)) else None


@functools.cache  # every step checks its batch, which may take 50 us at most
def _is_of(dtype: Any, kinds: tuple[Any, ...]) -> bool:
    if dtype is None or jnp.issubdtype(dtype, np.timedelta64):  # an integer to NumPy
        return False
    return any(jnp.issubdtype(dtype, kind) for kind in kinds)


def map_with_path(fn: Callable[..., Any], tree: Tree, *rest: Any, is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """Maps `fn(path, leaf, *other_leaves)` over a tree, with paths as written by `path_of`.

    >>> map_with_path(lambda path, x, y: f"{path}={x + y}", {"a": 1, "b": (2,)}, {"a": 10, "b": (20,)})
    {'a': 'a=11', 'b': ('b/0=22',)}
    """
    return jax.tree_util.tree_map_with_path(
        lambda keys, *leaves: fn(path_of(keys), *leaves), tree, *rest, is_leaf=is_leaf
    )


def paths_of(tree: Tree, is_leaf: Callable[[Any], bool] | None = None) -> list[str]:
    """The paths of all leaves, in the order of `jax.tree.leaves`.

    >>> paths_of({"dense": {"kernel": 0, "bias": 0}})
    ['dense/bias', 'dense/kernel']
    """
    return [path_of(keys) for keys, _ in jax.tree_util.tree_flatten_with_path(tree, is_leaf)[0]]


def check_matches(pattern: str, tree: Tree, purpose: str) -> None:
    """Refuses a regular expression found in no path of a tree with leaves: it would silently do nothing.

    >>> check_matches("kernel$", {"dense": {"kernel": 0}}, "freeze")
    >>> check_matches("embed", {"dense": {"kernel": 0}}, "freeze")
    Traceback (most recent call last):
    train.errors.UsageError: freeze='embed' matches none of the 1 parameter paths; they look like: dense/kernel.
    """
    paths = paths_of(tree)
    if not paths or any(re.search(pattern, path) for path in paths):
        return
    shown = ", ".join(paths[:_SHOWN_PATHS]) + (", ..." if len(paths) > _SHOWN_PATHS else "")
    raise UsageError(
        f"{purpose}={pattern!r} matches none of the {len(paths)} parameter paths; they look like: {shown}."
    )
