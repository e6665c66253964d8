"""Every case under examples that hypothesis draws, and shrinks when they fail; the same ones on every run."""

import hypothesis
import pytest
from hypothesis import strategies as st

from lossfns.testing.fuzz import ENTRIES, EXAMPLES, SCALES, Recipe, check_example
from tests.cases import CASES

RECIPES = st.builds(
    Recipe,
    masked=st.lists(st.integers(0, 15), max_size=4).map(tuple),
    entries=st.lists(st.tuples(st.integers(0, 255), st.sampled_from(ENTRIES)), max_size=4).map(tuple),
    tied=st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=3).map(tuple),
    scale=st.sampled_from(SCALES),
    coarse=st.booleans(),
    order=st.integers(0, 3),
    under_the_mask=st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30]),
)


@pytest.mark.parametrize("loss", CASES)
def test_any_example(loss):
    case = CASES[loss]
    if "fuzz" in case.skip:
        pytest.skip(case.skip["fuzz"])

    @hypothesis.settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=EXAMPLES,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(RECIPES)
    def check(recipe):
        check_example(case, recipe)

    check()
