"""One checkpoint as Orbax writes and reads it: values by path, and metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.records.state_layout import Description, flatten_state


def write_checkpoint(manager: Any, step: int, leaves: dict[str, Any], meta: dict[str, Any]) -> None:
    """Writes the values by path (see `flatten_state`) and metadata of JSON types, and waits for completion.

    Raises:
        Exception: Orbax and TensorStore raise many kinds.
    """
    import orbax.checkpoint as ocp

    items = ocp.args.Composite(state=ocp.args.PyTreeSave(leaves), meta=ocp.args.JsonSave(meta))
    if not manager.save(step, args=items, force=True):
        raise RuntimeError("Orbax did not save it")
    manager.wait_until_finished()
    manager.check_for_errors()


def read_meta(folder: Path) -> dict[str, Any]:
    """Reads the `meta` of `write_checkpoint`.

    Raises:
        ValueError: It is malformed, or its step is not the folder's name, as in a copied folder.
        Exception: Orbax cannot read it.
    """
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        meta: Any = reader.restore(folder / "meta", args=ocp.args.JsonRestore())
    form = {"extras": dict, "iterator": dict | None, "leaves": list, "config": object}
    fits = isinstance(meta, dict) and all(name in meta and isinstance(meta[name], kind) for name, kind in form.items())
    if not fits or not all(isinstance(x, dict) and {"path", "shape", "dtype"} <= x.keys() for x in meta["leaves"]):
        raise ValueError("its metadata is malformed")
    if str(meta.get("step", folder.name)) != folder.name:
        raise ValueError(f"it is the checkpoint of step {meta['step']}")
    return dict(meta)


def read_leaves(folder: Path, state: Any, saved: Description) -> dict[str, Any]:
    """Reads the values of a checkpoint, placed like the arrays of `state`, a state that fits `saved`.

    Returns:
        The values by path, without arrays of size 0.

    Raises:
        ValueError: Shapes or dtypes of the arrays are not as described. Nothing is read then.
        Exception: Orbax cannot read them.
    """
    import orbax.checkpoint as ocp

    leaves = flatten_state(state)[0]
    found = ocp.PyTreeCheckpointHandler().metadata(folder / "state").tree
    _check_arrays(found, leaves, saved)
    restore_args = {
        name: ocp.ArrayRestoreArgs(sharding=leaf.sharding, dtype=leaf.dtype)
        if isinstance(leaf, jax.Array) and leaf.committed
        else ocp.RestoreArgs(restore_type=np.ndarray)
        for name, leaf in leaves.items()
    }
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        values: dict[str, Any] = reader.restore(
            folder / "state", args=ocp.args.PyTreeRestore(restore_args=restore_args)
        )
    return values


def _check_arrays(found: dict[str, Any], leaves: dict[str, Any], saved: Description) -> None:
    """Checks that the arrays described by `found` are the arrays of the state, in the saved dtypes."""
    dtypes = {entry["path"]: entry["dtype"] for entry in saved}
    if found.keys() != leaves.keys():
        raise ValueError(f"its arrays do not match its list ({min(found.keys() ^ leaves.keys())})")
    for name, leaf in leaves.items():
        key = dtypes[name].startswith("key<")
        wanted = f"{leaf.dtype if key else dtypes[name]}{list(np.shape(leaf))}"
        there = f"{found[name].dtype}{list(found[name].shape)}"
        if there != wanted:
            raise ValueError(f"{name} is {there} where its list has {wanted}")
