"""The list of a folder's files with SHA-256 sums, which shows lost, changed and added files."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

from train.files import open_plain, read_json, sync_to_disk, write_atomic

MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Writes the list of all files in a folder, at any depth, to its `manifest.json`.

    Files, folders and the folder's own name reach the disk before the list: if it exists, so do they, even after a loss
    of power.
    """
    files = {name: folder / name for name in sorted(_modes(folder)) if name != MANIFEST}
    sums = {name: _sha256(path) for name, path in files.items()}
    for path in files.values():
        sync_to_disk(path)
    for below, _, _ in os.walk(folder, topdown=False):
        sync_to_disk(below)
    sync_to_disk(folder.parent)
    write_atomic(folder / MANIFEST, json.dumps(sums, indent=1))


def find_damage(folder: Path) -> str | None:
    """Compares the files of a folder with its list. Returns the first difference in words, or None.

    No link is followed, and no pipe, socket or device is opened.
    """
    try:
        if folder.is_symlink():
            return "it is a link"
        modes = _modes(folder)
        odd = [name for name, mode in sorted(modes.items()) if not stat.S_ISREG(mode)]
        if odd:
            return f"{odd[0]} is not a plain file"
        expected = read_json(folder / MANIFEST)
        if not isinstance(expected, dict) or not expected:
            return f"{MANIFEST} is empty" if expected == {} else f"{MANIFEST} is not a list of files"
        for name, digest in expected.items():
            if name not in modes:
                return f"{name} is missing"
            if _sha256(folder / name) != digest:
                return f"{name} was changed"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    added = sorted(modes.keys() - expected.keys() - {MANIFEST})
    return f"{added[0]} is not on its list of files" if added else None


def _modes(folder: Path) -> dict[str, int]:
    """The modes of all files in a folder, at any depth, by relative path."""
    found: dict[str, int] = {}
    below = [folder]
    while below:
        with os.scandir(below.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(Path(entry.path))
                else:
                    found[Path(entry.path).relative_to(folder).as_posix()] = entry.stat(follow_symlinks=False).st_mode
    return found


def _sha256(path: Path) -> str:
    with open(path, "rb", opener=open_plain) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
