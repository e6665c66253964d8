"""Small files on disk: written whole or not at all, read only where they are plain files, and as plain JSON."""

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
"""Folders that this process has locked, and so could write to. One that refuses later is a run that failed."""

_DEPTH = 100  # of nested JSON; Python's own recursion gives out a little later, and where is another in each version
_NOT_PLAIN = (errno.ELOOP, errno.ENXIO)  # what opening a link, or a pipe or socket without waiting for it, gives
_ELSEWHERE = (*_NOT_PLAIN, errno.EROFS, errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR)


def check_place(path: Any, what: str) -> Path:
    """A path as it was given, if it can be one of a file or folder that is written here.

    Args:
        path: Text or a path.
        what: What it is for, as in "expected WHAT as ...".

    Returns:
        The path.

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
    """The place of a name in a folder, which no name can leave.

    Args:
        root: The folder.
        name: Of a file or folder directly in it: no path, not hidden, nothing that a terminal would not show.

    Returns:
        `root / name`.

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
    """An `OSError` as one sentence that says what to do.

    Args:
        action: What was tried, as in "cannot ACTION PATH".
        path: The file or folder it was tried on.
        error: What the operating system said.

    Returns:
        `UsageError` for a place that cannot be written at all, `RunFailed` for one that stopped taking data: the disk
        is full or failing, or a folder that this process had opened refuses now.

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
            f"cannot {action} {path} any more ({reason}); see that the folder is there and can be written, and run the "
            "same command again: what was saved before is intact"
        )
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
    path = check_place(path, "a file")
    payload = encode_text(data) if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # of a killed process that had this number
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
    """Lets `print` write escapes for what the encoding of standard output has not, rather than end the program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def encode_text(text: str) -> bytes:
    r"""Text as UTF-8. Half of a surrogate pair, which UTF-8 has not, becomes the escape that JSON reads as such.

    >>> encode_text("é\ud800")
    b'\xc3\xa9\\ud800'
    """
    return text.encode(errors="backslashreplace")


def open_plain(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Opens a plain file, as an opener of `open`: a link is not followed, no pipe, socket or device waited for.

    Args:
        path: The file.
        flags: As in `os.open`.

    Returns:
        A file descriptor.

    Raises:
        OSError: It cannot be opened, or is no plain file.
    """
    try:
        descriptor = _open(path, flags | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno not in _NOT_PLAIN:
            raise
        raise OSError(error.errno, "it is a link, a pipe or a socket, not a plain file", error.filename) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file", os.fspath(path))
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
    """What JSON in UTF-8 says.

    Args:
        data: The text.

    Returns:
        Its value, of JSON types.

    Raises:
        ValueError: It is no JSON, or nested deeper than anything that is written here.

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
    """What a plain file of JSON says: `parse_json` of `read_bytes`; raises OSError and ValueError."""
    return parse_json(read_bytes(path))


def set_aside(path: Path, name: str) -> Path:
    """Renames a file or folder that cannot be used, so that nothing takes it for a good one and nothing is lost.

    Args:
        path: The file or folder.
        name: Its new name in the same folder.

    Returns:
        The new place; its name is `NAME-2` and so on where `NAME` is taken.

    Raises:
        OSError: It cannot be renamed.
    """
    number, place = 1, path.with_name(name)
    while os.path.lexists(place):
        number += 1
        place = path.with_name(f"{name}-{number}")
    return path.rename(place)


def make_folder(path: str | os.PathLike[str], what: str = "the folder") -> Path:
    """Makes a folder and its parents, unless they are there.

    Args:
        path: The folder.
        what: What it is, as in "cannot create WHAT PATH".

    Returns:
        The path.
    """
    path = check_place(path, what)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(f"create {what}", path, error) from error
    return path


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


def to_json(value: Any, *, nonfinite: Callable[[float], Any] = lambda _: None, depth: int = _DEPTH) -> Any:
    """A value made of JSON types only: dataclasses become objects, arrays lists, paths text.

    Args:
        value: Any nesting of mappings, sequences, dataclasses, numbers, arrays, enums, paths and text.
        nonfinite: What stands for NaN and the infinities, which JSON has not; None (null) unless told otherwise.
        depth: How many levels may be nested.

    Returns:
        The same as dict, list, str, int, float, bool and None.

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
        if array.dtype.kind not in "biufOSU":  # bfloat16 and its kin are registered as void types
            array = array.astype(np.float64)
        if array.dtype.kind != "O":
            return to_json(array.tolist(), nonfinite=nonfinite, depth=depth)
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
