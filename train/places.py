"""Names that become files and folders."""

from __future__ import annotations

import os
from pathlib import Path

from train.errors import UsageError


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
