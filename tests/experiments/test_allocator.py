"""Freed memory stays with the process."""

import ctypes
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import numpy as np
from experiments.study.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**23)  # 64 MiB, 16,384 pages
before = count()
for _ in range(4):
    np.ones(2**23)
print(count() - before)
"""


def _faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS, mode], capture_output=True, text=True, check=True, timeout=120
    )
    return int(done.stdout)


def test_memory_is_not_touched_anew() -> None:
    try:
        ctypes.CDLL("libc.so.6")
    except OSError:
        pytest.skip("no glibc")
    assert _faults("keep") < 100
    assert _faults("plain") > 4 * 16  # pages may be huge ones


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.study import allocator

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(allocator.ctypes, "CDLL", missing)
    assert not allocator.keep_freed_memory()
