"""Every public loss has every property of the contract: one test for each pair."""

import inspect

import pytest

import lossfns
from lossfns.testing import PROPERTIES, check_property
from tests.loss_table import LOSS_TABLE


@pytest.mark.parametrize("name", [name for name in PROPERTIES if name != "fuzz"])  # test_fuzz.py draws its own
@pytest.mark.parametrize("loss", LOSS_TABLE)
def test_property(loss, name):
    result = check_property(LOSS_TABLE[loss], name)
    if result.status == "skipped":
        pytest.skip(result.detail)
    assert result.status == "passed", f"{result.detail}\nsmallest failing inputs: {result.inputs}"


def test_every_number_that_is_traced_is_in_the_sweep_of_a_row():
    swept = {}
    for row, case in LOSS_TABLE.items():
        swept.setdefault(row.split()[0], set()).update(case.sweep)
    for name, given in swept.items():
        loss = getattr(lossfns, name)
        if hasattr(loss, "compiled"):
            parameters = inspect.signature(loss).parameters.values()
            numbers = {p.name for p in parameters if "float | jax.Array" in str(p.annotation)}
            assert numbers <= given, f"{name}: give values for {numbers - given}"
