"""A file to which a run appends lines, with detection of changes by others."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

from train.console import warn
from train.files import disk_error, open_plain, read_bytes, set_aside, write_atomic
from train.records.lock import check_lock


class Journal:
    """Lines on disk, written synchronously, with a copy in memory.

    A line cut short by a killed process or a full disk is dropped when the file is opened again. If the file is
    deleted, emptied, truncated or changed during the run, there is a warning, the lines are written again, and the
    changed file is kept as `NAME.changed`. Lines appended by others are kept. The file's folder must exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))
        found = self._read()
        self._content = (found or b"")[: (found or b"").rfind(b"\n") + 1]
        if found != self._content:
            write_atomic(self.path, self._content)

    def lines(self) -> list[bytes]:
        """The lines without line breaks."""
        return self._content.splitlines()  # splitting text would also split at other characters

    def add(self, line: bytes) -> None:
        """Appends one line, which includes its line break, and waits until it is on disk.

        Raises:
            RunFailed: The disk is full or failing, the file or its folder cannot be written any more, or the folder is
                no longer this run's (see `check_lock`). The lines before are intact.
        """
        check_lock(self.path)
        try:
            size = os.lstat(self.path).st_size
        except OSError:
            size = -1
        if size != len(self._content):
            self.verify()
        try:
            with open(self.path, "ab", buffering=0, opener=open_plain) as file:
                self._append(file, line)
        except OSError as error:
            raise disk_error("write", self.path, error) from error
        self._content += line

    def _append(self, file: io.FileIO, line: bytes) -> None:
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())  # a later checkpoint must not outlive it
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(file.fileno(), len(self._content))  # a full disk may have stored half a line
            raise

    def replace(self, lines: list[bytes]) -> None:
        """Replaces all lines."""
        check_lock(self.path)
        self.verify()
        content = b"".join(line + b"\n" for line in lines)
        if content != self._content:
            write_atomic(self.path, content)
            self._content = content

    def verify(self) -> None:
        """Compares the file with the added lines, warns of changes and repairs it."""
        found = self._read()
        if found == self._content:
            return
        if found is not None and found.startswith(self._content) and found.endswith(b"\n"):
            added = len(found.splitlines()) - len(self.lines())
            warn(f"{self.path} has {added} more lines than this run wrote; they are kept")
            self._content = found
            return
        what, kept = "deleted" if found is None else "emptied" if not found else "changed", ""
        try:
            if found:
                kept = f", the old content is kept as {set_aside(self.path, self.path.name + '.changed').name}"
        except OSError as error:
            raise disk_error("rename", self.path, error) from error
        write_atomic(self.path, self._content)
        warn(f"{self.path} was {what} while this run writes it; its {len(self.lines())} lines are written again{kept}")

    def _read(self) -> bytes | None:
        try:
            return read_bytes(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise disk_error("read", self.path, error) from error
