"""The leaves of a state by path: how a checkpoint stores, compares and restores them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.errors import UsageError
from train.trees import is_key

Description = list[dict[str, Any]]


def flatten_state(state: Any) -> tuple[dict[str, Any], Description]:
    """The leaves by path as Orbax accepts them, and path, shape and dtype of each in order."""
    leaves: dict[str, Any] = {}
    description = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path)
        shape, dtype = _layout(leaf)
        description.append({"path": name, "shape": list(shape), "dtype": dtype})
        if 0 not in shape:  # Orbax refuses empty arrays
            data = jax.random.key_data(leaf) if is_key(leaf) else leaf
            # With several processes Orbax accepts global arrays (unlike the arrays of `pmap`) and arrays on the host.
            alone = jax.process_count() == 1
            here = not isinstance(data, jax.Array) or (data.is_fully_addressable and not alone)
            leaves[name] = np.asarray(data) if here else data
    return leaves, description


def check_layout(state: Any, saved: Description, *, any_dtype: bool = False) -> None:
    """Raises `UsageError` for the first leaf that differs between the state to restore into and the saved one.

    With `any_dtype` the dtypes of numbers may differ; the dtypes of PRNG keys never may.
    """
    _, wanted = flatten_state(state)
    here = {entry["path"]: entry for entry in wanted}
    there = {entry["path"]: entry for entry in saved}
    advice = "build the model and optimizer of the saved run, or use another directory"
    for path in [*here, *(path for path in there if path not in here)]:
        if path not in there:
            raise UsageError(f"the checkpoint has no {path}, which this state has; {advice}")
        if path not in here:
            raise UsageError(f"the checkpoint has {path}, which this state does not have; {advice}")
        if here[path] != there[path]:
            dtypes = here[path]["dtype"], there[path]["dtype"]
            only_dtype = here[path]["shape"] == there[path]["shape"] and not any("key<" in name for name in dtypes)
            if only_dtype and any_dtype:
                continue
            old, new = (f"{entry['dtype']}{entry['shape']}" for entry in (there[path], here[path]))
            accept = ", or accept the change by name: --allow-changed dtype" if only_dtype else ""
            raise UsageError(f"the checkpoint has {path} as {old}, but this state has it as {new}; {advice}{accept}")


def rebuild(state: Any, leaves: dict[str, Any]) -> Any:
    """The state with the saved values by path (arrays of size 0 omitted), converted to its dtypes."""

    def leaf(path: Any, old: Any) -> Any:
        name = jax.tree_util.keystr(path)
        if name not in leaves:
            return old  # no elements
        value = leaves[name]
        if is_key(old):
            return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(old))
        if isinstance(old, jax.Array):
            return value.astype(old.dtype) if isinstance(value, jax.Array) else jnp.asarray(value, old.dtype)
        if isinstance(old, np.ndarray | np.generic):
            return value.astype(old.dtype)
        return type(old)(value.item())

    return jax.tree_util.tree_map_with_path(leaf, state)


def _layout(leaf: Any) -> tuple[tuple[int, ...], str]:
    return np.shape(leaf), str(leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype)
