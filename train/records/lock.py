"""One writer per folder: a lock that ends with its process, and a text that names the owner.

The system's lock (`flock`) does not outlive a killed process. It is on the folder itself if the file system can lock
folders, so that nothing can be deleted during a run, and also on the open file `.lock`, which names the owner. NFS
cannot lock folders and has only the second, so a run ends when that file is gone. On a file system without locks there
is a warning, and nothing prevents a second writer.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import datetime
import errno
import json
import os
import socket
import stat
from pathlib import Path

from train.console import warn
from train.errors import RunFailed, UsageError
from train.files import OPENED, check_place, disk_error, is_writer, open_plain, parse_json

LOCK = ".lock"

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
_OURS = b'{"host": '  # how the text of a lock begins; any other `.lock` is not changed


class FolderInUse(UsageError):
    """Another process writes to the folder."""


@dataclasses.dataclass
class _Lock:
    """The lock of this process on a folder."""

    folder: int
    """Descriptor of the folder."""
    file: int
    """Descriptor of its `.lock`."""
    whole: bool
    """Whether the folder itself is locked, not only the file."""
    names: set[Path] = dataclasses.field(default_factory=set)
    """The paths used to lock it. A link in them may change later."""
    users: set[str] = dataclasses.field(default_factory=set)
    """The parts of this process that need the lock."""

    def close(self) -> None:
        os.close(self.file)
        os.close(self.folder)


_held: dict[Path, _Lock] = {}


def lock_folder(folder: str | os.PathLike[str], user: str = "run") -> None:
    """Prevents other processes from writing to a folder until this one ends or unlocks it.

    Args:
        folder: The folder, which must exist. This process may lock it again.
        user: The part of the process that needs it. The lock is released when all parts have unlocked it.

    Raises:
        FolderInUse: Another process writes to the folder; the message says which.
        UsageError: The folder cannot be written, or its `.lock` is not a plain file.
        RunFailed: The disk is full or failing.
    """
    check_place(folder, "a folder to lock")
    if not is_writer():
        return  # process 0 holds the lock
    place = Path(folder).resolve()
    if place not in _held:
        try:
            lock = _take(place)
        except OSError as error:
            raise disk_error("lock", place, error) from error
        if lock is None:
            return
        _held[place] = lock
        OPENED.add(place)
    _held[place].names.add(Path(os.path.abspath(folder)))
    _held[place].users.add(user)


def is_locked(folder: str | os.PathLike[str]) -> bool:
    """Whether this process has locked a folder."""
    return Path(folder).resolve() in _held


def check_lock(path: str | os.PathLike[str]) -> None:
    """Checks before a write to `path` that the locked folders it lies in are still this process's own.

    Raises:
        RunFailed: Such a folder, or a `.lock` that alone holds the lock, was moved, deleted or replaced: the folder may
            now belong to another run.
    """
    place = Path(os.path.abspath(path))
    above = {place, *place.parents}
    for lock in _held.values():
        for name in lock.names & above:
            gone = "" if _is_same(name, lock.folder) else f"{name} was moved, deleted or replaced"
            if not gone and not lock.whole and not _is_same(name / LOCK, lock.file):
                gone = f"{name / LOCK} was deleted or replaced"
            if gone:
                raise RunFailed(
                    f"{gone} while this run writes to that folder; another run may use it now, so nothing more is "
                    "written: check that no other run uses it, restore what was moved, and run the same command again"
                )


def unlock_folder(folder: str | os.PathLike[str], user: str = "run") -> None:
    """Unlocks a folder for a user of `lock_folder`; no effect on other folders."""
    place = Path(folder).resolve()
    if place not in _held:
        return
    lock = _held[place]
    lock.users.discard(user)
    if not lock.users:
        del _held[place]
        OPENED.discard(place)
        with contextlib.suppress(OSError):
            _write(lock.file, "")
        lock.close()


@atexit.register
def unlock_all() -> None:
    """Unlocks all folders, as the end of the process does."""
    for folder, lock in list(_held.items()):
        for user in list(lock.users):
            unlock_folder(folder, user)


def _take(place: Path) -> _Lock | None:
    """Locks a folder; None if there are no locks. Raises UsageError if another process holds the lock."""
    if os.name == "nt":  # cannot open folders and has no flock
        _say_unlocked(place, "no flock on this system")
        return None
    with contextlib.ExitStack() as stack:
        folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, folder)
        try:
            not_whole = _try(folder)
            file = _open_file(place)
            stack.callback(os.close, file)
            not_file = _try(file)
        except BlockingIOError:
            raise FolderInUse(
                f"another run is writing to {place}: {_owner(place)}; wait for it or end it, or give another folder"
            ) from None
        if not_whole and not_file:
            _say_unlocked(place, not_file)
            return None
        if not_whole and not _is_same(place / LOCK, file):  # deleted in between
            raise UsageError(f"another run has just left {place}; run the same command again")
        with contextlib.suppress(OSError):  # full disk: the lock works without its text
            _write(file, _myself())
        stack.pop_all()
        return _Lock(folder, file, whole=not not_whole)


def _say_unlocked(place: Path, reason: str) -> None:
    warn(
        f"the file system of {place} has no locks ({reason}); nothing would keep a second run from writing "
        "there at the same time"
    )


def _open_file(place: Path) -> int:
    try:
        file = open_plain(place / LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EINVAL):  # a link, pipe, socket, folder
            raise
        raise UsageError(f"cannot lock {place}: {LOCK} is in the way ({error.strerror or error}); delete it") from error
    if os.fstat(file).st_nlink > 1:
        os.close(file)
        raise UsageError(f"cannot lock {place}: {LOCK} is a second name of another file; delete it")
    return file


def _try(descriptor: int) -> str:
    """Takes a lock, or returns the reason why there are none. Raises BlockingIOError if another process holds it."""
    try:
        _flock(descriptor)
    except OSError as error:
        denied = error.errno in (errno.EACCES, errno.EPERM)
        if denied and stat.S_ISDIR(os.fstat(descriptor).st_mode):  # a file system that can only lock files
            return error.strerror or str(error)
        if isinstance(error, BlockingIOError) or error.errno not in _NO_LOCKS:
            raise
        return error.strerror or str(error)
    return ""


def _flock(descriptor: int) -> None:
    """Takes the system's lock. Raises `BlockingIOError` if another process holds it."""
    import fcntl  # not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:  # the same error on some network file systems
        raise BlockingIOError(error.errno, error.strerror) from None


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _myself() -> str:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "start": now})


def _write(descriptor: int, text: str) -> None:
    """Writes the owner of the lock, unless the file holds another text."""
    before = os.pread(descriptor, len(_OURS), 0)
    if before and before != _OURS:
        return
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _owner(place: Path) -> str:
    try:
        with open(place / LOCK, "rb", opener=open_plain) as file:
            told = parse_json(file.read(1000))
        return f"process {told['pid']} on {told['host']}, since {told['start']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown process"


def _forget() -> None:
    """In a forked child: closes the descriptors, so that the parent's lock does not outlive the parent."""
    while _held:
        _held.popitem()[1].close()
    OPENED.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
