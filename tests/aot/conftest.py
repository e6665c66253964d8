"""Compilers for absent accelerators; a test is skipped if its compiler is not installed."""

import sys

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments.benchmarks.targets import TARGETS, prepare

if "aot" in sys.argv:  # of `pytest -m aot`: other runs may want the accelerators that are there
    prepare()


@pytest.fixture(autouse=True)
def _no_cache():
    """What is compiled for other devices cannot be read back from a cache."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # which remembers whether it is used
    yield
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()


def skip_without(target):
    """Skips the test if the target's compiler is missing."""
    if not TARGETS[target].installed:
        pytest.skip(f"{TARGETS[target].module} is not installed: pip install -c constraints.txt -e '.[aot]'")
