"""Small files: written atomically, read only if they are plain files, and parsed as plain JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import io
import json
import math
import os
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np

from train.errors import RunFailed, UsageError

OPENED: set[Path] = set()
"""Folders that this process has locked. If one of them cannot be written later, the run has failed."""

_DEPTH = 100  # of nested JSON; Python's recursion limit, which depends on the version, is only a little higher
_NOT_PLAIN = (errno.ELOOP, errno.ENXIO)  # from opening a link, or a pipe or socket without waiting
_ELSEWHERE = (*_NOT_PLAIN, errno.EROFS, errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR)


def check_place(path: Any, what: str) -> Path:
    """Checks the path of a file or folder to be written; `what` is its purpose, for the message.

    >>> check_place("runs/a", "a workdir").as_posix()
    'runs/a'
    >>> check_place("", "a workdir")
    Traceback (most recent call last):
    train.errors.UsageError: expected a workdir as text in UTF-8 that is not empty and has no NUL, got ''; ...
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    try:
        fits = isinstance(text, str) and text != "" and "\0" not in text and text.encode() != b""
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise UsageError(
            f"expected {what} as text in UTF-8 that is not empty and has no NUL, got {path!a}; give another path"
        )
    return Path(path)


def child_path(root: str | os.PathLike[str], name: str) -> Path:
    """The path of a file or folder directly in `root`: its name is not a path, not hidden, and printable.

    >>> child_path("runs", "seed-0").as_posix()
    'runs/seed-0'
    >>> child_path("runs", "../elsewhere")
    Traceback (most recent call last):
    train.errors.UsageError: expected a plain name for something in runs (no slashes, ...), got '../elsewhere'
    """
    if not name.isprintable() or not 1 <= len(name.encode()) <= 200 or name[0] == "." or {*name} & {*"/\\:"}:
        raise UsageError(
            f"expected a plain name for something in {root} (no slashes, not hidden, at most 200 bytes), got {name!r}"
        )
    return Path(root) / name


def disk_error(action: str, path: str | os.PathLike[str], error: OSError) -> UsageError | RunFailed:
    """Turns an `OSError` into an error of one sentence that says what to do.

    Returns:
        `UsageError` for a location that cannot be written at all, `RunFailed` for one that no longer can: the disk is
        full or failing, or this process had opened the folder before.

    >>> disk_error("write", "run/report.md", OSError(28, "No space left on device"))
    RunFailed('cannot write run/report.md (No space left on device); make room ... what was saved before is intact')
    """
    reason = error.strerror or str(error)
    refused = isinstance(error, PermissionError | NotADirectoryError | FileNotFoundError | FileExistsError)
    if refused or error.errno in _ELSEWHERE:
        place = Path(os.path.abspath(path))
        if OPENED.isdisjoint([place, *place.parents]):
            return UsageError(f"cannot {action} {path} ({reason}); choose a place that can be written")
        return RunFailed(
            f"cannot {action} {path} any more ({reason}); check that the folder exists and can be written, and run the "
            "same command again: what was saved before is intact"
        )
    return RunFailed(
        f"cannot {action} {path} ({reason}); make room on the disk and run the same command again: "
        "what was saved before is intact"
    )


def is_writer() -> bool:
    """Whether this process writes files and messages: in a run of several processes only process 0 does.

    >>> is_writer()
    True
    """
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Writes a file atomically: a reader sees the old or the new content, never a part, even after a loss of power.

    The folder must exist. Text is written as UTF-8. In a run of several processes only process 0 writes.

    Raises:
        UsageError: The location cannot be written.
        RunFailed: The disk is full or failing; the old content is intact.
    """
    if not is_writer():
        return
    path = check_place(path, "a file")
    payload = encode_text(data) if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # left by a killed process of the same number
        with open(temporary, "xb", opener=_open) as file:
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


def escape_output() -> None:
    """Lets `print` escape characters that standard output cannot encode, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def encode_text(text: str) -> bytes:
    r"""Text as UTF-8. A lone surrogate, which UTF-8 cannot encode, becomes its JSON escape.

    >>> encode_text("é\ud800")
    b'\xc3\xa9\\ud800'
    """
    return text.encode(errors="backslashreplace")


def open_plain(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Opens a plain file, as the `opener` of `open`: never follows a link or waits for a pipe, socket or device.

    Raises:
        OSError: It cannot be opened or is not a plain file.
    """
    try:
        descriptor = _open(path, flags | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno not in _NOT_PLAIN:
            raise
        raise OSError(error.errno, "it is a link, a pipe or a socket, not a plain file", error.filename) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a plain file", os.fspath(path))
    return descriptor


def _open(path: str | os.PathLike[str], flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0), 0o666)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a plain file (see `open_plain`); raises OSError."""
    try:
        with open(path, "rb", opener=open_plain) as file:
            return file.read()
    except ValueError as error:  # NUL
        raise OSError(errno.EINVAL, str(error), os.fspath(path)) from None


def parse_json(data: bytes | str) -> Any:
    """Parses JSON in UTF-8.

    Raises:
        ValueError: It is not JSON, or nested more deeply than any file of a run.

    >>> parse_json(b'{"seed": [1, null]}')
    {'seed': [1, None]}
    >>> parse_json("[" * 101 + "]" * 101)
    Traceback (most recent call last):
    ValueError: nested more than 100 levels deep
    """
    try:
        value = json.loads(data.decode() if isinstance(data, bytes) else data)
    except RecursionError:
        raise ValueError(f"nested more than {_DEPTH} levels deep") from None
    if _too_deep(value):
        raise ValueError(f"nested more than {_DEPTH} levels deep")
    return value


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEPTH + 1):
        level = [x for x in level if isinstance(x, list | dict)]
        if not level:
            return False
        level = [item for x in level for item in (x.values() if isinstance(x, dict) else x)]
    return True


def read_json(path: str | os.PathLike[str]) -> Any:
    """Parses a plain file of JSON, see `read_bytes` and `parse_json`; raises OSError or ValueError."""
    return parse_json(read_bytes(path))


def set_aside(path: Path, name: str) -> Path:
    """Renames an unusable file or folder in its folder: nothing is lost, and nothing mistakes it for a good one.

    Returns:
        The new path, `NAME-2` and so on if `NAME` exists.
    """
    number, place = 1, path.with_name(name)
    while os.path.lexists(place):
        number += 1
        place = path.with_name(f"{name}-{number}")
    return path.rename(place)


def make_folder(path: str | os.PathLike[str], what: str = "the folder") -> Path:
    """Creates a folder and its parents if they are missing."""
    path = check_place(path, what)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(f"create {what}", path, error) from error
    return path


def sync_to_disk(path: str | os.PathLike[str]) -> None:
    """Waits until a file's content, or a folder's list of names, has reached the disk, if the system supports it."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not supported by this file system
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Deletes temporary files of a killed `write_atomic` from a folder without another writer."""
    for path in Path(folder).glob(".*.tmp"):
        if path.suffixes[-2:-1] and path.suffixes[-2][1:].isdecimal() and path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()


def to_json(value: Any, *, nonfinite: Callable[[float], Any] = lambda _: None, depth: int = _DEPTH) -> Any:
    """Converts a value to JSON types: dataclasses become objects, arrays lists, paths text.

    Args:
        value: Any nesting of mappings, sequences, dataclasses, numbers, arrays, enums, paths and text.
        nonfinite: Replacement of NaN and infinities, which JSON lacks; None (null) by default.
        depth: Maximum number of nested levels.

    Returns:
        The value as dict, list, str, int, float, bool and None.

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
    if depth < 1 and isinstance(value, Mapping | list | tuple):
        raise UsageError(f"expected at most {_DEPTH} levels of nested values, got more; does one hold itself?")
    if isinstance(value, Mapping):
        return {str(key): to_json(item, nonfinite=nonfinite, depth=depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item, nonfinite=nonfinite, depth=depth - 1) for item in value]
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.kind not in "biufOSU":  # bfloat16 and similar types are registered as void
            array = array.astype(np.float64)
        if array.dtype.kind != "O":
            return to_json(array.tolist(), nonfinite=nonfinite, depth=depth)
    raise UsageError(f"expected numbers, text, lists and mappings, got {type(value).__name__}, which JSON cannot hold")


def dump_json(value: Any) -> str:
    """Indented JSON text with a final newline."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The entries in which two JSON objects differ: dotted names with the old and the new value.

    A missing entry has the value `ABSENT`. The order follows the first object.

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
"""The value of a missing entry."""
