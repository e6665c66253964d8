"""Compilers for accelerators that are not there; a test whose compiler is not installed is skipped."""

import pytest

from experiments.benchmarks.targets import TARGETS, prepare

prepare()


def skip_without(target):
    """Skips the test if the target's compiler is missing."""
    if not TARGETS[target].installed:
        pytest.skip(f"{TARGETS[target].module} is not installed: pip install -c constraints.txt -e '.[aot]'")
