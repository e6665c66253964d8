"""The table of faults names tests that exist, and has a row for every fault."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "reliability.md").read_text()
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| #")]


def functions(path):
    """The tests of a file: whether each is marked `faults`."""
    nodes = [node for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)]
    return {node.name: any("mark.faults" in ast.unparse(d) for d in node.decorator_list) for node in nodes}


def test_every_fault_has_a_row_with_a_test():
    numbers = [int(number) for row in ROWS if (number := row.split("|")[1].strip())]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 36
    for row in ROWS:
        assert "::test_" in row, row


def test_every_test_in_the_table_exists_and_is_marked_as_it_says():
    names = re.findall(r"`(tests/[\w/]+\.py)::(\w+)(?:\[([^\]]*)\])?`", TEXT)
    assert len(names) >= 33
    for path, name, _ in names:
        assert name in functions(path), f"{path}::{name}"
    for row in ROWS:
        marked = [functions(path)[name] for path, name, _ in re.findall(r"`(tests/[\w/]+\.py)::(\w+)(\[)?", row)]
        assert any(marked) == ("*faults*" in row), row


def test_every_case_in_the_table_exists():
    from tests.train.records import test_checkpoint, test_faults

    cases = {
        "test_killed": {f"{at}-{point}" for at in (12, 20) for point in test_faults.POINTS},
        "test_failed_save": {"while-saving", "last-save", "checksums", "last-checksums", "readonly"},
        "test_changed": set(test_faults.CHANGES),
        "test_damaged_newest_falls_back": {damage.__name__ for damage in test_checkpoint.DAMAGE},
    }
    for name, case in re.findall(r"::(\w+)\[([^\]]*)\]`", TEXT):
        assert case in cases[name], f"{name}[{case}]"
