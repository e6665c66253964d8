"""One row of the loss table at a time: its properties share compiled programs, which are then let go."""

import os

import jax
import pytest

from lossfns.testing import case
from tests.loss_table import LOSS_TABLE

ORDER = {name: index for index, name in enumerate(LOSS_TABLE)}


def row_of(item):
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return ORDER.get(parameters.get("loss"))


def pytest_collection_modifyitems(items):
    """The fuzz of a row stands beside its properties."""
    places = [i for i, item in enumerate(items) if row_of(item) is not None]
    by_row = sorted((items[i] for i in places), key=row_of)
    for i, item in zip(places, by_row, strict=True):
        items[i] = item


@pytest.fixture(autouse=True)
def only_programs_of_this_row(request):
    """Programs of all rows together would need more memory than a small machine has.

    They are compiled with few of LLVM's optimizations, as most are run once; all others, and these too where the
    environment has JAX_DISABLE_MOST_OPTIMIZATIONS=0, as users have them.
    """
    number = row_of(request.node)
    row = number, request.node.path
    if only_programs_of_this_row.last != row:
        only_programs_of_this_row.last = row
        case._KNOWN.clear()
        jax.clear_caches()
    if number is None or "JAX_DISABLE_MOST_OPTIMIZATIONS" in os.environ:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


only_programs_of_this_row.last = None
