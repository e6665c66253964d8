"""JAX's persistent compilation cache in the user's cache folder, so that a program is compiled once."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import jax


def enable_compilation_cache() -> Path | None:
    """Lets JAX keep compiled programs in `lossfns/compiled` of the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`).

    A folder chosen by `JAX_COMPILATION_CACHE_DIR` or by the program is left alone, and `JAX_ENABLE_COMPILATION_CACHE=0`
    keeps the cache off.

    Returns:
        The folder in use, or None where there is none: it cannot be written, or the cache is off.
    """
    config: Any = jax.config  # whose attributes are not in its type
    if not config.jax_enable_compilation_cache:
        return None
    chosen = config.jax_compilation_cache_dir
    if chosen or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return Path(chosen) if chosen else None
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "lossfns" / "compiled" / _machine()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # read-only, or there is no home
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
