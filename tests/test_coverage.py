"""The committed page of what proves each function is what its generator writes."""

from tests import coverage


def test_the_page_is_up_to_date():
    assert coverage.PAGE.read_text() == coverage.page(), "run python -m tests.coverage and commit docs/coverage.md"


def test_no_cell_is_empty():
    rows = [line for line in coverage.page().splitlines() if line.startswith("| ") and "[^" in line]
    assert len(rows) > 100
    assert all(cell.strip() for line in rows for cell in line.strip("|").split("|"))
