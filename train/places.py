"""Names that become files and folders, and folders that only this user can write to."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from train.errors import UsageError

_UNKNOWN_USER = 65534  # to whom, in a container, the folders of the system outside belong


def check_place(path: Any, what: str) -> Path:
    """A path as it was given, if it can be one of a file or folder that is written here.

    Args:
        path: Text or a path.
        what: What it is for, as in "expected WHAT as ...".

    Returns:
        The path.

    Raises:
        UsageError: It is no text, empty, holds a NUL, or is not in UTF-8, which what writes checkpoints cannot name.

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


def private_folder(path: str | os.PathLike[str]) -> Path:
    """A folder that nobody but this user can write to or look into, made if it is not there.

    For what is run later on, such as compiled programs: in a folder that others can write to, or that another user made
    first under a name that can be guessed, they could be anyone's.

    Args:
        path: The folder. Its parents are made as well.

    Returns:
        The path, of mode 0700.

    Raises:
        UsageError: There is something else, a link, or a folder that is another user's or that others can write to; or
            they can put another in its place, because they can write to the folder that it is in.
        OSError: It cannot be made.
    """
    path = Path(os.path.abspath(check_place(path, "a folder")))
    for missing in [parent for parent in reversed(path.parents) if not parent.exists()]:
        missing.mkdir(0o755, exist_ok=True)  # whatever the user's mask lets others do
    path.mkdir(0o700, exist_ok=True)
    if not hasattr(os, "geteuid"):  # Windows, which has no such modes
        return path
    found = os.lstat(path)
    problem = ""
    if not stat.S_ISDIR(found.st_mode):
        problem = "is a link or no folder"
    elif found.st_uid != os.geteuid():
        problem = f"belongs to another user ({found.st_uid})"
    elif found.st_mode & 0o022:
        problem = f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
    for parent in map(os.stat, path.parents):
        owned = parent.st_uid in (0, os.geteuid(), _UNKNOWN_USER)
        open_to_all = parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX  # unless it is like /tmp
        if not owned or open_to_all:
            problem = problem or "can be replaced by others, who can write to a folder above it"
    if problem:
        raise UsageError(
            f"expected {path} as a folder of this user alone, but it {problem}; delete it, or choose another place"
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        os.chmod(path, 0o700)
    return path


def inside(root: str | os.PathLike[str], name: str) -> Path:
    """The place of a name in a folder, which no name can leave.

    Args:
        root: The folder.
        name: Of a file or folder directly in it: no path, not hidden, nothing that a terminal would not show.

    Returns:
        `root / name`.

    Raises:
        UsageError: It is no such name.

    >>> inside("runs", "seed-0").as_posix()
    'runs/seed-0'
    >>> inside("runs", "../elsewhere")
    Traceback (most recent call last):
    train.errors.UsageError: expected a plain name for something in runs (no slashes, ...), got '../elsewhere'
    """
    if not name.isprintable() or not 1 <= len(name.encode()) <= 200 or name[0] == "." or {*name} & {*"/\\:"}:
        raise UsageError(
            f"expected a plain name for something in {root} (no slashes, not hidden, at most 200 bytes), got {name!r}"
        )
    return Path(root) / name
