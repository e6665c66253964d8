"""Every public loss has every property of the contract: one test for each pair."""

import pytest

from lossfns.testing import PROPERTIES, check_property
from tests.loss_table import LOSS_TABLE


@pytest.mark.parametrize("name", [name for name in PROPERTIES if name != "fuzz"])  # test_fuzz.py draws its own
@pytest.mark.parametrize("loss", LOSS_TABLE)
def test_property(loss, name):
    result = check_property(LOSS_TABLE[loss], name)
    if result.status == "skipped":
        pytest.skip(result.detail)
    assert result.status == "passed", f"{result.detail}\nsmallest failing inputs: {result.inputs}"
