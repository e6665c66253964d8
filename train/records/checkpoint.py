"""Checkpoints: a killed run resumes bit for bit.

A checkpoint holds the training state, the position in the data and the config. Orbax writes it; a list of the SHA-256
sums of all files follows when the files have reached the disk. So a checkpoint without the list is unfinished, and one
that differs from the list is damaged. In both cases there is a warning, and the previous checkpoint is used.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

from train.console import warn
from train.devices.processes import on_process_zero
from train.errors import RunFailed, UsageError, check_count
from train.files import check_place, disk_error, read_json, remove_leftovers, set_aside, to_json, write_atomic
from train.records.checkpoint_files import read_leaves, read_meta, write_checkpoint
from train.records.fingerprint import refuse_changes
from train.records.lock import check_lock, lock_folder, unlock_folder
from train.records.manifest import MANIFEST, find_damage, write_manifest
from train.records.state_layout import check_layout, flatten_state, rebuild
from train.records.stateful import Stateful, decode, encode, require_stateful

State = TypeVar("State")

_SAVING = ".saving.json"  # names the step being saved, so that a killed save does not count as damage
_DELETING = ".deleting"  # old checkpoints are first moved here, so that a killed deletion leaves no partial one


class Checkpointer:
    """Saves the training state as a hook of `fit`, and restores it.

    Args:
        directory: Folder of the checkpoints, which are folders named by step.
        every: Steps between two checkpoints. The last step and an interruption also save one.
        keep: Number of newest checkpoints to keep.
        iterator: The data iterator of `fit`. It must have `get_state` and `set_state`, as Grain iterators do. None if
            batches depend on the step alone.
        config: The run's config. A checkpoint of another config is refused.
        extras: Further objects with `get_state` and `set_state`, by name, such as `EarlyStopping`.
        data: Identity of the data set (see `train.fingerprint`). A checkpoint of another one is refused.
        best: An object with a `best_step`, such as `EarlyStopping`: the checkpoint of that step is kept as well, if one
            was saved at that step. So let `every` divide the steps between two evaluations.
        allow_changed: Names of differences from the checkpoint that are allowed: dotted names of settings, "data",
            "dtype" (values are converted) and "x64".

    Attributes:
        latest_step: The step of the newest checkpoint known to be good, or None.
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
        data: Any = None,
        best: Any = None,
        allow_changed: Collection[str] = (),
    ) -> None:
        self.directory = check_place(directory, "a directory for checkpoints").absolute()
        self.every, self.keep = check_count("every", every), check_count("keep", keep)
        self.latest_step: int | None = None
        self._iterator = require_stateful("iterator", iterator)
        self._extras = {name: require_stateful(name, extra) for name, extra in (extras or {}).items()}
        self._config = None if config is None else to_json(config, nonfinite=str)
        self._data = None if data is None else to_json(data)
        self._best = best
        self._allowed = frozenset(allow_changed)
        self._bad: dict[int, str] = {}
        self._manager: Any = None

    def __call__(self, step: int, state: Any, metrics: Mapping[str, float]) -> None:
        """Saves the state, as a hook of `fit`."""
        self.save(step, state)

    def save(self, step: int, state: Any) -> None:
        """Saves a checkpoint and deletes all others but the newest `keep` and the best.

        Raises:
            UsageError: The folder cannot be written, holds checkpoints of a later step, or is another process's.
            RunFailed: Saving failed, or the folder is no longer this run's. The checkpoints before are intact.
        """
        step = check_count("step", step, 0)
        if step == self.latest_step:
            return
        check_lock(self.directory)
        leaves, description = flatten_state(state)
        meta = {
            "step": step,
            "leaves": description,
            "iterator": None if self._iterator is None else encode("iterator", self._iterator.get_state()),
            "extras": {name: encode(name, extra.get_state()) for name, extra in self._extras.items()},
            "config": self._config,
            "data": self._data,
            "x64": _x64(),
        }
        manager = self._open(step)
        try:
            if jax.process_index() == 0:
                write_atomic(self.directory / _SAVING, json.dumps({"step": step}))
            write_checkpoint(manager, step, leaves, meta)
            on_process_zero(lambda: self._commit(step))
        except Exception as error:  # Orbax and TensorStore raise all kinds for a full disk
            self._close_manager()  # it may count the step as saved
            kept = f"; the checkpoint of step {self.latest_step} is intact" if self.latest_step is not None else ""
            raise RunFailed(
                f"cannot save the checkpoint of step {step} in {self.directory} ({_reason(error)}); make room on the "
                f"disk, or check that the folder can be written, and run the same command again{kept}"
            ) from error
        self.latest_step = step  # only now may others be deleted
        try:
            self._delete_old(manager)
        except Exception as error:  # the new checkpoint is saved
            warn(f"cannot delete old checkpoints in {self.directory} ({_reason(error)})")

    def restore_latest(self, state: State, iterator: Any = None) -> State | None:
        """Restores the newest good checkpoint.

        Args:
            state: A state of the same structure, shapes and dtypes, as from `create_state`; its values are not used.
            iterator: A fresh data iterator to set to the saved position; by default the one given to the constructor.

        Returns:
            The restored state with arrays placed as in `state`; None if there is no checkpoint.

        Raises:
            UsageError: No checkpoint can be read, or it has another state layout, config or data set.
        """
        if iterator is not None:
            self._iterator = require_stateful("iterator", iterator)
        found = self._read_newest(state)
        if found is None:
            return None
        step, meta, restored = found
        self._restore_extras(meta, step)
        self.latest_step = step
        return restored

    def read_latest(self, state: State) -> State | None:
        """Returns the state of the newest good checkpoint without restoring iterator and extras.

        For a running training that returns to a checkpoint while its data continue. Checkpoints saved at an
        interruption come last, because an uninterrupted run has none.
        """
        found = self._read_newest(state, regular_first=True)
        return None if found is None else found[2]

    def read_best(self, state: State) -> State | None:
        """Like `read_latest` for the best checkpoint; None if it is missing or damaged."""
        step = getattr(self._best, "best_step", None)
        found = self._read_newest(state, only=step) if step in _steps(self.directory) else None
        return None if found is None else found[2]

    def close(self) -> None:
        """Releases Orbax and the lock of the folder. All checkpoints are already on disk."""
        self._close_manager()
        unlock_folder(self.directory, f"checkpointer {id(self)}")

    def _close_manager(self) -> None:
        if self._manager is not None:
            with contextlib.suppress(Exception):  # errors were raised when it saved
                self._manager.close()
            self._manager = None

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read_newest(
        self, state: State, *, regular_first: bool = False, only: int | None = None
    ) -> tuple[int, dict[str, Any], State] | None:
        """Step, metadata and state of the newest good checkpoint. Warns of the bad ones it skips."""
        steps = sorted(_steps(self.directory), reverse=True) if only is None else [only]
        if regular_first:
            steps.sort(key=lambda step: step % self.every != 0)
        unfinished = _unfinished_step(self.directory)
        for step in steps:
            folder = self.directory / str(step)
            problem = find_damage(folder)
            if problem is None:
                try:
                    meta = read_meta(folder)
                    self._check_identity(meta, f"the checkpoint of step {step} in {self.directory}")
                    check_layout(state, meta["leaves"], any_dtype="dtype" in self._allowed)
                    return step, meta, rebuild(state, read_leaves(folder, state, meta["leaves"]))
                except UsageError:
                    raise
                except Exception as error:  # Orbax raises many kinds for an unreadable checkpoint
                    problem = _reason(error)
            self._bad[step] = problem
            self._close_manager()  # the next save must set it aside
            cause = "was never finished" if step == unfinished else f"is damaged ({problem})"
            instead = "trying the one before" if only is None else "the latest is used instead of the best"
            warn(f"checkpoint {folder} {cause}; {instead}")
        if only is None and any(step != unfinished for step in steps):
            raise UsageError(
                f"none of the {len(steps)} checkpoints in {self.directory} can be read (newest: "
                f"{self._bad[steps[0]]}); restore that folder from a copy, or delete it to start again"
            )
        return None

    def _check_identity(self, meta: dict[str, Any], where: str) -> None:
        """Refuses a checkpoint of another config, data set or number format, unless allowed by name."""
        if self._config is not None and meta["config"] is not None:
            refuse_changes(where, "another config", meta["config"], self._config, allowed=self._allowed)
        now = {"data": self._data, "x64": _x64()}
        saved = {name: meta.get(name) for name in now}
        known = [name for name in now if now[name] is not None and saved[name] is not None]
        old, new = ({name: facts[name] for name in known} for facts in (saved, now))
        refuse_changes(where, "other data or numbers", old, new, allowed=self._allowed)

    def _restore_extras(self, meta: dict[str, Any], step: int) -> None:
        """Restores iterator and extras, after everything was checked."""
        where = f"the checkpoint of step {step} in {self.directory}"
        if self._iterator is not None and meta["iterator"] is None:
            raise UsageError(f"{where} holds no position in the data; delete it, or restore without an iterator")
        missing = [name for name in self._extras if name not in meta["extras"]]
        if missing:
            raise UsageError(f"{where} holds nothing for {', '.join(missing)}; delete it, or leave those extras out")
        for name, extra in self._extras.items():
            try:
                extra.set_state(decode(meta["extras"][name]))
            except Exception as error:
                raise UsageError(
                    f"{name} refuses its state in {where} ({_reason(error)}); make it as it was when that was saved, "
                    "or delete that folder to start again"
                ) from error
        if self._iterator is not None:
            try:
                self._iterator.set_state(decode(meta["iterator"]))
            except Exception as error:
                raise UsageError(
                    f"the data iterator refuses the position in {where} ({_reason(error)}); "
                    "give the same data and pipeline, or delete that folder to start again"
                ) from error

    def _open(self, step: int) -> Any:
        """Orbax's manager of the folder, prepared for a first checkpoint at `step`."""
        if self._manager is not None:
            return self._manager
        import orbax.checkpoint as ocp

        on_process_zero(self._make_ready)
        later = [found for found in _steps(self.directory) if found >= step]
        if later:
            raise UsageError(
                f"{self.directory} holds checkpoints up to step {max(later)}, but this run is at step {step}; "
                "restore them first (restore_latest), or use another directory"
            )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None,  # deleted here, not by Orbax, after the new one is verified
            todelete_subdir=_DELETING,
            create=True,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=False,  # so that errors are raised in `save`
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        return self._manager

    def _make_ready(self) -> None:
        """Locks the folder and removes the leftovers of a killed run, so that only good checkpoints remain."""
        unfinished = _unfinished_step(self.directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock_folder(self.directory, f"checkpointer {id(self)}")
            remove_leftovers(self.directory)
            if (self.directory / _DELETING).is_symlink():
                (self.directory / _DELETING).unlink()
            shutil.rmtree(self.directory / _DELETING, ignore_errors=True)
            for found in _steps(self.directory):  # to Orbax any folder named by a number is a checkpoint
                folder = self.directory / str(found)
                if found == unfinished and not folder.is_symlink():
                    shutil.rmtree(folder)
                elif found in self._bad or not (folder / MANIFEST).is_file():
                    set_aside(folder, f"unreadable-{found}")
        except OSError as error:
            raise disk_error("save checkpoints in", self.directory, error) from error

    def _commit(self, step: int) -> None:
        """Writes the checksums of a checkpoint, which makes it valid."""
        try:
            write_manifest(self.directory / str(step))
            (self.directory / _SAVING).unlink()
        except Exception as error:
            raise UsageError(_reason(error)) from error  # raised in the other processes as well

    def _delete_old(self, manager: Any) -> None:
        """Deletes all valid checkpoints but the newest `keep` and the best."""
        finished = [step for step in _steps(self.directory) if (self.directory / str(step) / MANIFEST).is_file()]
        kept = sorted(finished)[-self.keep :]
        regular = [step for step in finished if step % self.every == 0]
        if regular and len(kept) > 1 and max(regular) < kept[0]:
            kept[0] = max(regular)  # an uninterrupted run would return to it (see `read_latest`)
        for old in sorted({*finished} - {*kept}):
            if old != getattr(self._best, "best_step", None):
                manager.delete(old)  # an atomic move
        if jax.process_index() == 0 and (self.directory / _DELETING).exists():
            shutil.rmtree(self.directory / _DELETING)


def _x64() -> bool:
    return bool(jax.config.read("jax_enable_x64"))


def _steps(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    names = [entry.name for entry in directory.iterdir() if entry.is_dir()]
    return [int(name) for name in names if name.isdecimal() and str(int(name)) == name]


def _unfinished_step(directory: Path) -> int | None:
    """The step that a killed save left without checksums, if any."""
    try:
        step = check_count("step", read_json(directory / _SAVING)["step"], 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if (directory / str(step) / MANIFEST).exists() else step


def _reason(error: BaseException) -> str:
    """The reason of an error in one line, by the message of the system if it contains one."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    text = str(error).strip() or type(error).__name__
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO, errno.ENAMETOOLONG):
        if os.strerror(code) in text:  # it may follow a long path
            return os.strerror(code)
    line = text.splitlines()[0]
    return line if len(line) <= 300 else f"{line[:150]} ... {line[-150:]}"
