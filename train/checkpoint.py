"""Checkpoints: a run that was killed goes on as if it never had been.

A checkpoint holds the training state, the position in the data and the config. Orbax writes it; a list of the SHA-256
sums of all its files is written last. So a checkpoint without that list was never finished, and one that differs from
it is damaged: either way the one before is used, and said so.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from train.errors import RunFailed, UsageError
from train.files import differing_keys, disk_error, to_json, write_atomic
from train.manifest import MANIFEST, find_damage, write_manifest

State = TypeVar("State")

_SAVING = ".saving.json"  # names the step that is being saved, so that a killed save is not taken for damage


class Stateful(Protocol):
    """What can be saved beside the training state: a data iterator, early stopping."""

    def get_state(self) -> Any:
        """Its state: bytes, or something made of JSON types."""

    def set_state(self, state: Any, /) -> None:
        """Goes on from such a state."""


class Checkpointer:
    """Saves the training state as a hook of `fit`, and restores it.

    Args:
        directory: Where the checkpoints go, one folder a step.
        every: Steps between two checkpoints; one more is saved at the last step and at an interruption.
        keep: How many of the newest are kept.
        iterator: The data iterator that `fit` draws from. It must have `get_state` and `set_state` (a Grain iterator
            has). None where batches are a function of the step alone.
        config: The run's config; a checkpoint of another config is refused.
        extras: Further objects with `get_state` and `set_state`, by name, such as `EarlyStopping`.

    Attributes:
        latest_step: The step of the newest checkpoint known to be good, or None.

    Raises:
        UsageError: An argument is wrong.
    """

    saves = True

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        every: int = 500,
        keep: int = 3,
        iterator: Any = None,
        config: Any = None,
        extras: Mapping[str, Stateful] | None = None,
    ) -> None:
        if every < 1 or keep < 1:
            raise UsageError(f"expected every and keep of at least 1, got {every} and {keep}")
        self.directory = Path(directory).absolute()
        self.every, self.keep = every, keep
        self.latest_step: int | None = None
        self._iterator = _stateful("iterator", iterator)
        self._extras = {name: _stateful(name, extra) for name, extra in (extras or {}).items()}
        self._config = None if config is None else to_json(config, nonfinite=str)
        self._bad: dict[int, str] = {}
        self._manager: Any = None

    def __call__(self, step: int, state: Any, metrics: Mapping[str, float]) -> None:
        """The hook: saves."""
        self.save(step, state)

    def save(self, step: int, state: Any) -> None:
        """Saves `state` as the checkpoint of `step`, and deletes what is older than the newest `keep`.

        Raises:
            UsageError: The folder cannot be written, or holds checkpoints of a later step.
            RunFailed: Saving failed. The checkpoints before are intact.
        """
        if step == self.latest_step:
            return
        leaves, description = _describe(state)
        meta = {
            "leaves": description,
            "iterator": None if self._iterator is None else _encode("iterator", self._iterator.get_state()),
            "extras": {name: _encode(name, extra.get_state()) for name, extra in self._extras.items()},
            "config": self._config,
        }
        manager = self._open(step)
        try:
            write_atomic(self.directory / _SAVING, json.dumps({"step": step}))
            _write(manager, step, leaves, meta)
            folder = self.directory / str(step)
            if jax.process_index() == 0:
                write_manifest(folder)
                (self.directory / _SAVING).unlink()
            self.latest_step = step  # from here on it may be what the others are deleted for
            for old in sorted(manager.all_steps())[: -self.keep]:
                manager.delete(old)
        except (UsageError, RunFailed):
            raise
        except Exception as error:  # Orbax and TensorStore raise all kinds for a full disk
            kept = f"the checkpoint of step {self.latest_step} is intact" if self.latest_step is not None else ""
            raise RunFailed(
                f"cannot save the checkpoint of step {step} in {self.directory} ({_first_line(error)}); "
                f"make room on the disk and run the same command again{'; ' + kept if kept else ''}"
            ) from error

    def restore_latest(self, state: State, iterator: Any = None) -> State | None:
        """Restores the newest good checkpoint.

        Args:
            state: A state of the same structure, shapes and dtypes, as from `create_state`; only its layout counts.
            iterator: A fresh data iterator, which is set to its saved position; by default the one given at the start.

        Returns:
            The restored state, its arrays placed as those of `state` were; None if nothing was saved yet.

        Raises:
            UsageError: No checkpoint can be read, or it belongs to a state, a config or data of another kind.
        """
        if iterator is not None:
            self._iterator = _stateful("iterator", iterator)
        steps = sorted(_steps(self.directory), reverse=True)
        unfinished = _unfinished_step(self.directory)
        for step in steps:
            folder = self.directory / str(step)
            problem = find_damage(folder)
            if problem is None:
                try:
                    meta, leaves = _read(folder, state)
                except UsageError:
                    raise
                except Exception as error:  # whatever Orbax makes of a checkpoint it cannot read
                    problem = _first_line(error)
            if problem is None:
                restored = _rebuild(state, meta["leaves"], leaves)
                self._take_up(meta, step)
                self.latest_step = step
                return restored
            self._bad[step] = problem
            cause = "was never finished" if step == unfinished else f"is damaged ({problem})"
            print(f"warning: checkpoint {folder} {cause}; trying the one before", file=sys.stderr)
        if any(step != unfinished for step in steps):
            raise UsageError(
                f"none of the {len(steps)} checkpoints in {self.directory} can be read (newest: "
                f"{self._bad[steps[0]]}); restore that folder from a copy, or delete it to start again"
            )
        return None

    def close(self) -> None:
        """Frees what Orbax holds; all checkpoints are on disk already."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take_up(self, meta: dict[str, Any], step: int) -> None:
        """Sets config, iterator and extras to what was saved, after all of it was checked."""
        where = f"the checkpoint of step {step} in {self.directory}"
        if self._config is not None and meta["config"] is not None:
            names = differing_keys(meta["config"], self._config)
            if names:
                raise UsageError(f"{where} has another config (different: {', '.join(names)}); use another directory")
        if self._iterator is not None and meta["iterator"] is None:
            raise UsageError(f"{where} holds no position in the data; delete it, or restore without an iterator")
        missing = [name for name in self._extras if name not in meta["extras"]]
        if missing:
            raise UsageError(f"{where} holds nothing for {', '.join(missing)}; delete it, or leave those extras out")
        for name, extra in self._extras.items():
            extra.set_state(_decode(meta["extras"][name]))
        if self._iterator is not None:
            try:
                self._iterator.set_state(_decode(meta["iterator"]))
            except Exception as error:
                raise UsageError(
                    f"the data iterator refuses the position in {where} ({_first_line(error)}); "
                    "give the same data and pipeline, or delete that folder to start again"
                ) from error

    def _open(self, step: int) -> Any:
        """Orbax's manager of the folder, made ready for a first checkpoint at `step`."""
        if self._manager is not None:
            return self._manager
        import orbax.checkpoint as ocp

        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for found in _steps(self.directory):
                if found in self._bad or not (self.directory / str(found) / MANIFEST).is_file():
                    _set_aside(self.directory, found)  # Orbax takes any folder named by a number for a checkpoint
        except OSError as error:
            raise disk_error("save checkpoints in", self.directory, error) from error
        later = [found for found in _steps(self.directory) if found >= step]
        if later:
            raise UsageError(
                f"{self.directory} holds checkpoints up to step {max(later)}, but this run is at step {step}; "
                "restore them first (restore_latest), or use another directory"
            )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None,  # deleted here, once the new one is proven, not by Orbax
            create=True,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=False,  # so that an error is raised where it happens
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        return self._manager


def _stateful(name: str, thing: Any) -> Any:
    if thing is not None and not (hasattr(thing, "get_state") and hasattr(thing, "set_state")):
        raise UsageError(
            f"expected {name} with get_state and set_state (a Grain iterator has them), got {type(thing).__name__}, "
            "which cannot be put back to a position: a resumed run would see other data"
        )
    return thing


def _encode(name: str, state: Any) -> dict[str, Any]:
    """Bytes or JSON as JSON; anything that JSON would change is refused."""
    if isinstance(state, bytes):
        return {"bytes": base64.b64encode(state).decode()}
    try:
        exact = json.loads(json.dumps(state)) == state
    except (TypeError, ValueError):
        exact = False
    if not exact:
        raise UsageError(
            f"expected {name}.get_state() to give bytes or JSON types (lists, no tuples), got {state!r:.200}"
        )
    return {"json": state}


def _decode(saved: dict[str, Any]) -> Any:
    return base64.b64decode(saved["bytes"]) if "bytes" in saved else saved["json"]


def _describe(state: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The leaves by path as Orbax takes them, and the path, shape and dtype of each in order."""
    leaves: dict[str, Any] = {}
    description = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path)
        shape, dtype = _layout(leaf)
        description.append({"path": name, "shape": list(shape), "dtype": dtype})
        if 0 not in shape:  # Orbax refuses arrays without elements, and there is nothing in them to save
            data = jax.random.key_data(leaf) if _is_key(leaf) else leaf
            leaves[name] = data if isinstance(data, jax.Array) else np.asarray(data)
    return leaves, description


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _layout(leaf: Any) -> tuple[tuple[int, ...], str]:
    return np.shape(leaf), str(leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype)


def _check_structure(state: Any, saved: list[dict[str, Any]]) -> None:
    """Raises for the first leaf in which the state to restore into differs from the saved one."""
    _, wanted = _describe(state)
    here = {entry["path"]: entry for entry in wanted}
    there = {entry["path"]: entry for entry in saved}
    advice = "build the model and optimizer of the saved run, or use another directory"
    for path in [*here, *(path for path in there if path not in here)]:
        if path not in there:
            raise UsageError(f"the checkpoint has no {path}, which this state has; {advice}")
        if path not in here:
            raise UsageError(f"the checkpoint has {path}, which this state has not; {advice}")
        if here[path] != there[path]:
            old, new = (f"{entry['dtype']}{entry['shape']}" for entry in (there[path], here[path]))
            raise UsageError(f"the checkpoint has {path} as {old}, but this state has it as {new}; {advice}")


def _write(manager: Any, step: int, leaves: dict[str, Any], meta: dict[str, Any]) -> None:
    import orbax.checkpoint as ocp

    items = ocp.args.Composite(state=ocp.args.PyTreeSave(leaves), meta=ocp.args.JsonSave(meta))
    if not manager.save(step, args=items, force=True):
        raise RuntimeError("Orbax did not save it")
    manager.wait_until_finished()
    manager.check_for_errors()


def _read(folder: Path, state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Meta data and leaves of one checkpoint, after its structure was compared with that of `state`."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        meta = reader.restore(folder / "meta", args=ocp.args.JsonRestore())
    _check_structure(state, meta["leaves"])
    leaves, _ = _describe(state)
    restore_args = {
        name: ocp.ArrayRestoreArgs(sharding=leaf.sharding, dtype=leaf.dtype)
        if isinstance(leaf, jax.Array) and leaf.committed
        else ocp.RestoreArgs(restore_type=np.ndarray)
        for name, leaf in leaves.items()
    }
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return meta, reader.restore(folder / "state", args=ocp.args.PyTreeRestore(restore_args=restore_args))


def _rebuild(state: Any, saved: list[dict[str, Any]], leaves: dict[str, Any]) -> Any:
    """The state with the saved values in place of its own."""

    def leaf(old: Any, entry: dict[str, Any]) -> Any:
        if entry["path"] not in leaves:
            return old  # no elements
        value = leaves[entry["path"]]
        if _is_key(old):
            return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(old))
        if isinstance(old, jax.Array):
            return value if isinstance(value, jax.Array) else jnp.asarray(value)
        return value if isinstance(old, np.ndarray | np.generic) else type(old)(value.item())

    old_leaves, structure = jax.tree.flatten(state)
    entries = {entry["path"]: entry for entry in saved}
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    return jax.tree.unflatten(
        structure, [leaf(old, entries[path]) for old, path in zip(old_leaves, paths, strict=True)]
    )


def _steps(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    names = [entry.name for entry in directory.iterdir() if entry.is_dir()]
    return [int(name) for name in names if name.isdecimal() and str(int(name)) == name]


def _unfinished_step(directory: Path) -> int | None:
    """The step whose saving was cut off before its list of checksums, if there is one."""
    try:
        step = int(json.loads((directory / _SAVING).read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if (directory / str(step) / MANIFEST).exists() else step


def _set_aside(directory: Path, step: int) -> None:
    """Renames a checkpoint that cannot be read, so that nothing takes it for one; an earlier one of that name goes."""
    import shutil

    aside = directory / f"unreadable-{step}"
    shutil.rmtree(aside, ignore_errors=True)
    (directory / str(step)).rename(aside)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
