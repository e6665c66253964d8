"""JAX's persistent compilation cache in the user's cache folder, so that each program is compiled once."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import stat
from pathlib import Path
from typing import Any

import jax

from train.console import warn
from train.errors import UsageError
from train.files import check_place

_UNKNOWN_USER = 65534  # owner, inside a container, of folders of the host


def user_cache() -> Path:
    """The folder `lossfns` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`). It may not exist yet."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(chosen or Path.home() / ".cache") / "lossfns"
    except RuntimeError as error:
        raise UsageError(f"there is no cache folder ({error}); name one by XDG_CACHE_HOME") from error


def private_folder(path: str | os.PathLike[str]) -> Path:
    """Returns a folder that only this user can read and write; creates it and its parents if necessary.

    For files that are executed later, such as compiled programs: another user could replace them in a folder that
    others can write to, or that was created first under a predictable name.

    Returns:
        The path, of mode 0700.

    Raises:
        UsageError: The path is not a folder, is a link, belongs to another user or can be written by others; or others
            can replace it, because they can write to a folder above it.
        OSError: It cannot be created.
    """
    path = Path(os.path.abspath(check_place(path, "a folder")))
    for missing in [parent for parent in reversed(path.parents) if not parent.exists()]:
        missing.mkdir(0o755, exist_ok=True)  # never wider, even with a loose umask
    path.mkdir(0o700, exist_ok=True)
    if not hasattr(os, "geteuid"):  # Windows
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
        # In a folder with the sticky bit, such as /tmp, others cannot rename entries they do not own.
        open_to_all = parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX
        if not owned or open_to_all:
            problem = problem or "can be replaced by others, who can write to a folder above it"
    if problem:
        raise UsageError(
            f"expected {path} as a folder of this user alone, but it {problem}; delete it, or choose another place"
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        os.chmod(path, 0o700)
    return path


def enable_compilation_cache() -> Path | None:
    """Lets JAX keep compiled programs in `lossfns/compiled` of the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`).

    Compiled programs are executed, so the folder must be private (see `private_folder`); otherwise there is a warning
    and no cache. A folder chosen by `JAX_COMPILATION_CACHE_DIR` or by the program is kept, and
    `JAX_ENABLE_COMPILATION_CACHE=0` turns the cache off.

    Returns:
        The folder in use; None if it cannot be written, is not safe, or the cache is off.
    """
    config: Any = jax.config  # its type lacks the options
    if not config.jax_enable_compilation_cache:
        return None
    chosen = config.jax_compilation_cache_dir
    if chosen or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return Path(chosen) if chosen else None
    try:
        folder = private_folder(user_cache() / "compiled" / _machine())
    except OSError:  # read-only
        return None
    except UsageError as error:
        warn(f"compiled programs are not kept: {error}")
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder


def _machine() -> str:
    """A name of the CPU that compiled programs depend on: machines may share a home folder."""
    try:
        flags = re.search(r"^(?:flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        flags = None
    text = f"{platform.machine()} {flags[0] if flags else platform.processor()}"
    return f"jax-{jax.__version__}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
