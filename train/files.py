"""Small files on disk: written whole or not at all, and as plain JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np

from train.errors import RunFailed, UsageError


def disk_error(action: str, path: str | os.PathLike[str], error: OSError) -> UsageError | RunFailed:
    """An `OSError` as one sentence that says what to do.

    Args:
        action: What was tried, as in "cannot ACTION PATH".
        path: The file or folder it was tried on.
        error: What the operating system said.

    Returns:
        `UsageError` for a place that cannot be written at all, `RunFailed` for one that stopped taking data.

    >>> disk_error("write", "run/report.md", OSError(28, "No space left on device"))
    RunFailed('cannot write run/report.md (No space left on device); make room ... what was saved before is intact')
    """
    reason = error.strerror or str(error)
    if (
        isinstance(error, PermissionError | NotADirectoryError | FileNotFoundError | FileExistsError)
        or error.errno == errno.EROFS
    ):
        return UsageError(f"cannot {action} {path} ({reason}); choose a place that can be written")
    return RunFailed(
        f"cannot {action} {path} ({reason}); make room on the disk and run the same command again: "
        "what was saved before is intact"
    )


def is_writer() -> bool:
    """Whether this process writes files and speaks: of several that make one run, only process 0 does.

    >>> is_writer()
    True
    """
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Writes a file whole: a reader sees the old content or the new one, never a part, also after a loss of power.

    Of several processes that make one run, only process 0 writes.

    Args:
        path: The file; its folder must exist.
        data: Text (written as UTF-8) or bytes.

    Raises:
        UsageError: The place cannot be written.
        RunFailed: The disk is full or failing; the old content is intact.
    """
    if not is_writer():
        return
    path = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_to_disk(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise disk_error("write", path, error) from error
        raise


def sync_to_disk(path: str | os.PathLike[str]) -> None:
    """Waits until a file's content, or the names in a folder, have reached the disk, where the system can tell."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Deletes the temporary files that a killed `write_atomic` left in a folder to which nobody else writes now."""
    for path in Path(folder).glob(".*.tmp"):
        if path.suffixes[-2:-1] and path.suffixes[-2][1:].isdecimal() and path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()


def to_json(value: Any, *, nonfinite: Callable[[float], Any] = lambda _: None) -> Any:
    """A value made of JSON types only: dataclasses become objects, arrays lists, paths text.

    Args:
        value: Any nesting of mappings, sequences, dataclasses, numbers, arrays, enums, paths and text.
        nonfinite: What stands for NaN and the infinities, which JSON has not; None (null) unless told otherwise.

    Returns:
        The same as dict, list, str, int, float, bool and None.

    Raises:
        UsageError: A part of it has no form in JSON.

    >>> to_json({"lr": np.float32(0.5), "sizes": (1, 2), "best": math.nan})
    {'lr': 0.5, 'sizes': [1, 2], 'best': None}
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else nonfinite(float(value))
    if isinstance(value, PurePath):
        return value.as_posix()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item, nonfinite=nonfinite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item, nonfinite=nonfinite) for item in value]
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.kind not in "biufOSU":  # bfloat16 and its kin are registered as void types
            array = array.astype(np.float64)
        if array.dtype.kind != "O":
            return to_json(array.tolist(), nonfinite=nonfinite)
    raise UsageError(f"expected numbers, text, lists and mappings, got {type(value).__name__}, which JSON cannot hold")


def dump_json(value: Any) -> str:
    """Indented JSON text with a last newline."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The entries in which two JSON objects differ: their dotted names, with the old and the new value.

    An entry that one side has not stands there as `ABSENT`. The order is that of the first object.

    >>> differences({"seed": 0, "data": {"name": "digits"}}, {"seed": 1, "data": {"name": "digits"}, "lr": 0.1})
    {'seed': (0, 1), 'lr': (nothing, 0.1)}
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {} if old == new and type(old) is type(new) else {prefix or "(all)": (old, new)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        name = f"{prefix}.{key}" if prefix else key
        found |= differences(old.get(key, ABSENT), new.get(key, ABSENT), name)
    return found


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()
"""Stands for an entry that is not there."""
