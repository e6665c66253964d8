"""Runs of a study: each is executed once, resumed if killed, and identified by everything that can change its result.

    results = run.all(product(method=("linear", "deep"), seed=range(5)), evaluate)

A run has a folder `runs/NAME` with `run.json`, its identity, and at the end `result.json`. The identity holds the
setting, all options that can change a result, the fingerprints of the data and of the study's code, and the keys of the
runs that it depends on. A result with another identity is never used: that run is moved aside and executed again.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.console import say
from train.devices.processes import on_process_zero
from train.errors import UsageError
from train.files import child_path, differences, dump_json, make_folder, read_json, to_json, write_atomic
from train.records.fingerprint import is_allowed, refuse_changes
from train.records.lock import FolderInUse, lock_folder, unlock_folder

Row = dict[str, Any]
"""A setting and the values from its run; a run that returned a list of mappings has a row for each."""
Function = Callable[..., Mapping[str, Any] | Sequence[Mapping[str, Any]]]
RESULT, RUN, USER = "result.json", "run.json", "a run of a study"
NOT_WORTH_KEEPING = {"code", "on"}
"""Parts of the identity that may change without `--allow-changed`; an unfinished run then starts again."""


def product(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """Returns all combinations of settings; the last one varies fastest.

    >>> product(labels=["random"], seed=range(2))
    [{'labels': 'random', 'seed': 0}, {'labels': 'random', 'seed': 1}]
    """
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def run_name(setting: Mapping[str, Any]) -> str:
    """Returns the folder name of a run; the order of the settings does not matter.

    >>> run_name({"seed": 0, "method": "xz"}), run_name({}), run_name({"rate": "1/3"})
    ('method=xz,seed=0', 'run', 'rate=1_3,...')
    """
    text = ",".join(f"{name}={value}" for name, value in sorted(setting.items())) or "run"
    plain = re.sub(r"[^\w.=,+ ()-]", "_", text, flags=re.ASCII)[:150].lstrip(".")
    return (
        plain if plain == text else f"{plain},{hashlib.sha256(text.encode(errors='backslashreplace')).hexdigest()[:4]}"
    )


def code_fingerprint(path: Path) -> str:
    """Returns the fingerprint of a study's code: its syntax tree without docstrings, comments and questions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [part for part in body if not _says_nothing(part)] or [ast.Pass()]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def _says_nothing(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        return isinstance(target, ast.Name) and target.id == "QUESTIONS"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def key_of(identity: Mapping[str, Any]) -> str:
    """Returns the key of a run: a short hash of its identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def parents_of(setting: Mapping[str, Any], rows: Sequence[Row], known: Mapping[str, tuple[Row, str]]) -> list[str]:
    """Returns the keys of the earlier runs in `rows` that agree with the setting in all common names."""
    found = set()
    for earlier, key in known.values():
        agrees = all(setting[name] == value for name, value in earlier.items() if name in setting)
        if agrees and any(earlier.items() <= row.items() for row in rows):
            found.add(key)
    return sorted(found)


def read_result(folder: Path, key: str) -> list[Row] | None:
    """Returns the rows of a finished run with this key, or None."""
    record = _read(folder / RESULT)
    if record is None or record.get("key") != key:
        return None
    values = record["values"]
    return [record["setting"] | _numbers(row) for row in (values if isinstance(values, list) else [values])]


def write_result(folder: Path, key: str, setting: Row, values: Any, record: Mapping[str, Any]) -> None:
    """Writes the result of a run and its record (commit, seconds)."""
    is_list = not isinstance(values, Mapping)
    plain = to_json([dict(row) for row in values] if is_list else dict(values), nonfinite=_nonfinite_name)
    clash = sorted({*setting} & {name for row in (plain if is_list else [plain]) for name in row})
    if clash:
        raise UsageError(
            f"a run of {setting} returns values with the names of its settings, {clash}: rename these values"
        )
    whole = {"key": key, "setting": setting, **record, "values": plain}
    write_atomic(folder / RESULT, dump_json(whole))


def _nonfinite_name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _numbers(value: Any) -> Any:
    """Undoes `_nonfinite_name` in values read from JSON."""
    if isinstance(value, dict):
        return {name: _numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = read_json(path)
        if not isinstance(found, dict) or (path.name == RESULT and not {"key", "setting", "values"} <= {*found}):
            raise ValueError("expected an object of a run")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is damaged ({error}); delete it, and its run is executed again") from error
    return found


def claim(folder: Path, identity: Mapping[str, Any], allowed: Sequence[str]) -> bool:
    """Claims the folder of a run for this process and identity, unless another process has claimed it.

    Args:
        folder: The run's folder.
        identity: Identity of the run.
        allowed: Names that may differ in an unfinished run that is resumed.

    Returns:
        Whether this process owns the folder, until `release`.

    Raises:
        UsageError: The folder contains an unfinished run that differs in another name.
    """
    on_process_zero(lambda: make_folder(folder, "the folder of a run"))
    try:
        lock_folder(folder, USER)
    except FolderInUse:
        return False
    try:
        on_process_zero(lambda: _make_ready(folder, identity, allowed))
    except BaseException:
        release(folder)
        raise
    return True


def release(folder: Path) -> None:
    """Lets other processes claim the folder."""
    unlock_folder(folder, USER)


def _make_ready(folder: Path, identity: Mapping[str, Any], allowed: Sequence[str]) -> None:
    old = _read(folder / RUN)
    if old == identity:
        return
    if old is not None:
        changed = {*differences(old, dict(identity))}
        finished = (folder / RESULT).exists()
        if not finished and not {name for name in changed if not is_allowed(name, allowed)} <= NOT_WORTH_KEEPING:
            ways_out = "give another --workdir, or delete that folder to start again"
            refuse_changes(str(folder), "an unfinished run", old, identity, allowed=allowed, ways_out=ways_out)
        if finished or not all(is_allowed(name, allowed) for name in changed):
            _put_aside(folder, f"{folder.name}~{key_of(old)[:6]}")
            say(f"note: {folder.name} is executed again, because of another {', '.join(sorted(changed))}")
    write_atomic(folder / RUN, dump_json(dict(identity)))


def _put_aside(folder: Path, name: str) -> None:
    aside = child_path(folder.parent, name)
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder, aside)
    release(folder)
    make_folder(folder, "the folder of a run")
    lock_folder(folder, USER)


class Clock:
    """Measures processor and wall time since its creation."""

    def __init__(self) -> None:
        self._processor, self._wall = time.process_time(), time.monotonic()

    def read(self) -> dict[str, float]:
        """Returns both times in seconds, rounded to tenths."""
        return {
            "processor_seconds": round(time.process_time() - self._processor, 1),
            "wall_seconds": round(time.monotonic() - self._wall, 1),
        }
