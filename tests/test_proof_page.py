"""The committed page of what proves each function is what its generator writes."""

from tests import proof_page


def test_the_page_is_up_to_date():
    text = "run python -m tests.proof_page and commit docs/coverage.md"
    assert proof_page.PAGE.read_text() == proof_page.page(), text


def test_every_function_has_an_oracle_or_says_why_not():
    rows = [line.strip("|").split("|") for line in proof_page.page().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in row] for row in rows if row[0].strip() != "name"]
    assert len(rows) > 200
    assert all(row[1] != proof_page.NOTHING or row[-1] != proof_page.NOTHING for row in rows)
