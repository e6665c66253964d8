"""One writer for a folder: a lock that vanishes with its process, and a text that says whose it is.

The lock is the system's (`flock`) on the open file `.lock`, so a process that is killed leaves none behind, whatever
its text says. On a file system without locks nothing keeps a second writer away; that is said, and the run goes on.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import errno
import json
import os
import socket
from pathlib import Path

from train.console import warn
from train.errors import UsageError
from train.files import disk_error, is_writer

LOCK = ".lock"

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class FolderInUse(UsageError):
    """Another process writes to the folder."""


_held: dict[Path, tuple[int, set[str]]] = {}  # by folder: the descriptor, and the users within this process


def lock_folder(folder: str | os.PathLike[str], user: str = "run") -> None:
    """Keeps other processes from writing to a folder until this one ends, or lets go of it.

    Args:
        folder: The folder, which must exist. This process may lock it again.
        user: Which part of the process needs it; the lock is released when all of them have released it.

    Raises:
        FolderInUse: Another process writes to the folder; the message says which.
        UsageError: The folder cannot be written.
        RunFailed: The disk is full or failing.
    """
    if not is_writer():
        return  # process 0 of this run has it
    folder = Path(folder).resolve()
    if folder in _held:
        _held[folder][1].add(user)
        return
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise disk_error("lock", folder, error) from error
    try:
        _flock(descriptor)
    except BlockingIOError:
        owner = _owner(descriptor)
        os.close(descriptor)
        raise FolderInUse(
            f"another run is writing to {folder}: {owner}; wait for it or end it, or give another folder"
        ) from None
    except OSError as error:
        os.close(descriptor)
        if error.errno not in _NO_LOCKS:
            raise disk_error("lock", folder, error) from error
        warn(
            f"the file system of {folder} has no locks ({error.strerror}); nothing would keep a second run from "
            "writing there at the same time"
        )
        return
    _held[folder] = (descriptor, {user})
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
        _write(descriptor, _myself())


def unlock_folder(folder: str | os.PathLike[str], user: str = "run") -> None:
    """Lets go of a folder that `lock_folder` locked for the same user; of another it does nothing."""
    folder = Path(folder).resolve()
    if folder not in _held:
        return
    descriptor, users = _held[folder]
    users.discard(user)
    if not users:
        del _held[folder]
        with contextlib.suppress(OSError):
            _write(descriptor, "")
        os.close(descriptor)


@atexit.register
def unlock_all() -> None:
    """Lets go of all folders, as the end of the process does."""
    for folder, (_, users) in list(_held.items()):
        for user in list(users):
            unlock_folder(folder, user)


def _flock(descriptor: int) -> None:
    """Takes the system's lock, or raises `BlockingIOError` where another process has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        raise OSError(errno.ENOSYS, "no flock on this system") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:  # how some network file systems say the same
        raise BlockingIOError(error.errno, error.strerror) from None


def _myself() -> str:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "start": now})


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _owner(descriptor: int) -> str:
    try:
        told = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {told['pid']} on {told['host']}, since {told['start']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not said its name"


def _forget() -> None:
    """In a forked child: the lock is the parent's, and must not outlive it in a descriptor of the child."""
    while _held:
        os.close(_held.popitem()[1][0])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
