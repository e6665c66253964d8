"""JAX's persistent compilation cache in the user's cache folder, so that a program is compiled once."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import jax

from train.console import warn
from train.errors import UsageError
from train.places import private_folder


def user_cache() -> Path:
    """The folder `lossfns` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`), which need not be there.

    Raises:
        UsageError: This user has no home.
    """
    chosen = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(chosen or Path.home() / ".cache") / "lossfns"
    except RuntimeError as error:
        raise UsageError(f"there is no cache folder ({error}); name one by XDG_CACHE_HOME") from error


def enable_compilation_cache() -> Path | None:
    """Lets JAX keep compiled programs in `lossfns/compiled` of the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`).

    Compiled programs are run, so the folder must be this user's alone (see `train.places.private_folder`): one that is
    not is left out, and said so. A folder chosen by `JAX_COMPILATION_CACHE_DIR` or by the program is left alone, and
    `JAX_ENABLE_COMPILATION_CACHE=0` keeps the cache off.

    Returns:
        The folder in use, or None where there is none: it cannot be written, is not safe, or the cache is off.
    """
    config: Any = jax.config  # whose attributes are not in its type
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
    """A name for what a program compiled for the CPU depends on, where machines share a home folder."""
    try:
        flags = re.search(r"^(?:flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        flags = None
    text = f"{platform.machine()} {flags[0] if flags else platform.processor()}"
    return f"jax-{jax.__version__}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
