"""Every public loss has every property of the contract: one test for each pair."""

import inspect
import typing

import pytest

import lossfns
from lossfns.testing import PROPERTIES, check_property
from tests.cases import CASES


@pytest.mark.parametrize("name", [name for name in PROPERTIES if name != "fuzz"])  # test_fuzz.py draws its own
@pytest.mark.parametrize("loss", CASES)
def test_property(loss, name):
    result = check_property(CASES[loss], name)
    if result.status == "skipped":
        pytest.skip(result.detail)
    assert result.status == "passed", f"{result.detail}\nsmallest failing inputs: {result.inputs}"


# `ddof` is a whole number, `length` of GRPO is swept in `dr_grpo`, and weights are arrays.
NOT_SWEPT = {"ddof", "length", "weights"}


def test_every_number_that_is_traced_is_in_the_sweep_of_a_row():
    swept = {}
    for name, case in CASES.items():
        swept.setdefault(name.split()[0], set()).update(case.sweep)
    found = 0
    for name, given in swept.items():
        parameters = inspect.signature(getattr(lossfns, name)).parameters.values()
        numbers = {p.name for p in parameters if float in typing.get_args(p.annotation)} - NOT_SWEPT
        found += len(numbers)
        assert numbers <= given, f"{name}: give values for {numbers - given}"
    assert found > 100
