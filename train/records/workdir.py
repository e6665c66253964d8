"""The folder of a run with its config, environment and summary."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax

from train.console import say, warn
from train.errors import UsageError
from train.files import (
    ABSENT,
    check_place,
    differences,
    disk_error,
    dump_json,
    encode_text,
    is_writer,
    make_folder,
    read_json,
    remove_leftovers,
    set_aside,
    to_json,
    write_atomic,
)
from train.records.fingerprint import refuse_changes
from train.records.journal import Journal
from train.records.lock import is_locked, lock_folder, unlock_folder

_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "chex",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
    "lossfns",
)


def open_workdir(workdir: str | os.PathLike[str], config: Any, *, allow_changed: Collection[str] = ()) -> Path:
    """Creates a run's folder, or opens it again for the same config, and locks it against other processes.

    Writes `config.json` and `environment.json`. A folder of another config is refused, unless it holds only these two
    files, because metrics and checkpoints of two runs would be mixed. A folder opened by another process is refused
    until that process ends or calls `close_workdir`.

    Args:
        workdir: The folder; its parents are created as well.
        config: A mapping or dataclass of plain values.
        allow_changed: Dotted names of settings that may differ from the start of the run ("data" includes all that
            begin with "data."). `config.json` then holds the new settings, `config_changes.jsonl` the changes with
            dates.

    Raises:
        UsageError: The folder holds another run or other files, another process has opened it, or it cannot be written.
    """
    wanted = to_json(config, nonfinite=str)
    workdir = make_folder(workdir, "the workdir")
    _content_of(workdir)  # first, so that nothing is written to a folder that is no workdir
    held = is_locked(workdir)
    if jax.process_index() == 0:
        lock_folder(workdir)
    try:
        _take_over(workdir, wanted, allow_changed)
    except BaseException:
        if not held:
            unlock_folder(workdir)
        raise
    return workdir


_WAYS_OUT = "give another --workdir, or delete that folder to start again"


def _content_of(workdir: Path) -> set[str]:
    """The names in a run's folder. Raises UsageError if it is not one."""
    try:
        content = sorted(name for name in os.listdir(workdir) if not name.startswith("."))
    except OSError as error:
        raise disk_error("look into the workdir", workdir, error) from error
    if content and "config.json" not in content:
        raise UsageError(
            f"{workdir} is not empty and is not the folder of a run (it has {content[0]} but no config.json); "
            f"{_WAYS_OUT}"
        )
    return {*content}


def _take_over(workdir: Path, wanted: Any, allow_changed: Collection[str]) -> None:
    """Compares a locked folder with the config, and writes config and environment."""
    content = _content_of(workdir)
    if jax.process_index() == 0:
        remove_leftovers(workdir)
    path = workdir / "config.json"
    # With nothing else there, the run ended before it began, for example by a mistyped name.
    if content - {"config.json", "environment.json"}:
        try:
            found = read_json(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read ({error}); {_WAYS_OUT}") from error
        changed = refuse_changes(
            str(workdir), "a run with another config", found, wanted, allowed=allow_changed, ways_out=_WAYS_OUT
        )
        if changed:
            _record_changes(workdir / "config_changes.jsonl", changed)
            write_atomic(path, dump_json(wanted))
    else:
        write_atomic(path, dump_json(wanted))
    _record_environment(workdir / "environment.json")


def close_workdir(workdir: str | os.PathLike[str]) -> None:
    """Unlocks the folder of a run for other processes, as the end of this process does."""
    unlock_folder(workdir)


def _record_changes(path: Path, changed: Mapping[str, tuple[Any, Any]]) -> None:
    values = {name: [None if value is ABSENT else value for value in pair] for name, pair in changed.items()}
    if is_writer():
        line = json.dumps({"date": _now(), "changed": values}, ensure_ascii=False) + "\n"
        Journal(path).add(encode_text(line))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _record_environment(path: Path) -> None:
    """Writes the environment, and prints a note if it differs from the start of the run."""
    now = environment()
    before = _read_environment(path)
    if before is not None:
        names = [name for name in differences(before, now) if name != "date"]
        if not names:
            return
        say(f"note: this run was started in another environment (different: {', '.join(names)})")
    write_atomic(path, dump_json(now))


def _read_environment(path: Path) -> dict[str, Any] | None:
    """The environment written at the start, or None. A damaged file is set aside with a warning."""
    try:
        before = read_json(path)
        if isinstance(before, dict):
            return before
        reason = f"{type(before).__name__} where an object was expected"
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = str(error)
    if is_writer():
        try:
            kept = set_aside(path, f"{path.name}.unreadable").name
        except OSError as error:
            raise disk_error("rename", path, error) from error
        warn(f"{path} cannot be read ({reason}); it is kept as {kept} and written again")
    return None


def environment() -> dict[str, Any]:
    """Versions, devices, commit and date, without the name of the machine.

    Returns:
        An object of JSON types. `git` is None outside of a checkout; `git.dirty` is true if tracked files differ from
        the commit.

    >>> sorted(environment())
    ['date', 'devices', 'git', 'packages', 'platform', 'python']
    """
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    devices = jax.devices()
    return {
        "date": _now(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "devices": {"backend": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "packages": versions,
        "git": _git_state(Path(__file__).resolve()),
    }


def _git_state(source: Path) -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that tracks this file (not of one that merely surrounds it)."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source.parent), *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=clean)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", source.name)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def write_summary(workdir: str | os.PathLike[str], summary: Mapping[str, Any]) -> Path:
    """Writes the final numbers of a run to `summary.json` (null for NaN and infinity) and returns the path."""
    path = check_place(workdir, "a workdir") / "summary.json"
    write_atomic(path, dump_json(to_json(dict(summary))))
    return path
