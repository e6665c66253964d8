"""One case at a time: its properties share compiled programs, which are then let go."""

import os

import jax
import pytest

from lossfns.testing import case
from tests.cases import CASES

ORDER = {name: index for index, name in enumerate(CASES)}


def case_of(item):
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return ORDER.get(parameters.get("loss"))


def pytest_collection_modifyitems(items):
    """The fuzz of a case runs with its properties."""
    places = [i for i, item in enumerate(items) if case_of(item) is not None]
    by_row = sorted((items[i] for i in places), key=case_of)
    for i, item in zip(places, by_row, strict=True):
        items[i] = item


@pytest.fixture(autouse=True)
def only_programs_of_this_case(request):
    """Programs of all cases together would need more memory than a small machine has.

    They are compiled with few of LLVM's optimizations, as most are run once; all others, and these too where the
    environment has JAX_DISABLE_MOST_OPTIMIZATIONS=0, as users have them.
    """
    number = case_of(request.node)
    current = number, request.node.path
    if only_programs_of_this_case.last != current:
        only_programs_of_this_case.last = current
        case._KNOWN.clear()
        jax.clear_caches()
    if number is None or "JAX_DISABLE_MOST_OPTIMIZATIONS" in os.environ:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


only_programs_of_this_case.last = None
