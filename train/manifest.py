"""The list of a folder's files and their SHA-256 sums, which tells whether one of them was lost or changed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from train.files import sync_to_disk, write_atomic

MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Writes the list of all files in the folder, at any depth, as `manifest.json` in it.

    The files, the folders and the folder's own name are on the disk before the list is: with it, they are all there
    even after a loss of power.

    Args:
        folder: A folder whose files will not change any more.

    Raises:
        UsageError: The folder cannot be written.
        RunFailed: The disk is full or failing.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    sums = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    for path in files:
        sync_to_disk(path)
    for below, _, _ in os.walk(folder, topdown=False):
        sync_to_disk(below)
    sync_to_disk(folder.parent)
    write_atomic(folder / MANIFEST, json.dumps(sums, indent=1))


def find_damage(folder: Path) -> str | None:
    """What is wrong with the files of a folder, in words, or None if they are as they were listed.

    Args:
        folder: A folder in which `write_manifest` was called.
    """
    try:
        expected = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, digest in expected.items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if _sha256(folder / name) != digest:
                return f"{name} was changed"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return None if expected else f"{MANIFEST} is empty"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
