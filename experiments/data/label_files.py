"""Reading a user's rows, such as texts and labels: CSV or TSV with a header, or JSONL with an object a line."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.data.records import Skips
from train.errors import UsageError

TABLES, LINES = (".csv", ".tsv"), (".jsonl", ".ndjson")
_LONGEST = 10_000_000
"""Maximum number of characters in a field; Python's own limit is 131,072."""


def read_label_file(file: Path, text: str, label: str, *, skip_budget: int = 0) -> list[tuple[str, str]]:
    """Reads texts and labels.

    Args:
        file: The file; its extension names the format.
        text: Column or key with the text.
        label: Column or key with the label.
        skip_budget: Number of rows without a usable text or label that are skipped.

    Returns:
        Text and label of each row. Whole numbers are normalised: 1, 1.0 and "1" are the same label.

    Raises:
        UsageError: The file, its header or a row is not as expected.
    """
    rows = read_rows(file, {"--data.text-column": text, "--data.label-column": label})
    skips = Skips(file.name, skip_budget)
    found = []
    for number, row in rows:
        try:
            if isinstance(row, str):
                raise ValueError(row)
            value = _value(row, text)
            if not isinstance(value, str):
                raise ValueError(f"{text!r} is {value!r}, expected a text")
            found.append((value, label_name(_value(row, label))))
        except ValueError as error:
            skips.skip("line", number, error)
    if not found:
        raise UsageError(f"{file.name} has no rows, expected a text and a label in each; add some below the header")
    return found


def read_rows(file: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yields the line number and the cells of each row by column, or an error message.

    Args:
        file: The file; its extension names the format.
        columns: Required columns, by the option that names them.

    Raises:
        UsageError: The file or its header is not as expected.
    """
    if file.suffix.lower() not in TABLES + LINES:
        raise UsageError(
            f"{file.name} ends in {file.suffix!r}, expected one of {', '.join(TABLES + LINES)}; save the file as "
            "one of them, or rename it"
        )
    content = _decoded(file)
    return _table(content, file, columns) if file.suffix.lower() in TABLES else _lines(content)


def _decoded(file: Path) -> str:
    if not file.is_file():
        raise UsageError(f"there is no file {str(file)!r}; --data.path expects a {' or '.join(TABLES + LINES)} file")
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}); give a file that you may read") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{file.name} is not UTF-8: line {line} has the byte {error.object[error.start]:#04x}; save it as UTF-8"
            + (" (it looks like UTF-16)" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "")
        ) from error


def _table(content: str, file: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yields number and cells of each row, or an error message.

    The header determines whether commas, semicolons or tabs separate the cells.
    """
    csv.field_size_limit(_LONGEST)
    names = [*columns.values()]
    seen: list[str] = []
    for delimiter in "\t,;" if file.suffix.lower() == ".tsv" else ",;\t":
        reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
        except csv.Error:
            continue
        seen = max(seen, header, key=len)
        if {*names} <= {*header} and len({*names}) == len(names):
            break
    else:
        shown = ", ".join(map(repr, seen[:10])) or "nothing"
        wanted = f"column{'s' * (len(names) > 1)} {' and '.join(map(repr, names))}"
        raise UsageError(
            f"the first line of {file.name} should name the {wanted}, but it has {shown}; add that line, or name your "
            f"column{'s' * (len(names) > 1)} by {' and '.join(columns)}"
        )
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise UsageError(f"the first line of {file.name} has {twice[0]!r} twice; give each column a name of its own")
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UsageError(
                f"line {reader.line_num} of {file.name} is no CSV ({error}); write a quote inside of quotes twice"
            ) from error
        if cells is None:
            return
        if cells and len(cells) != len(header):
            yield reader.line_num, f"has {len(cells)} fields, expected {len(header)}; quote a text with {delimiter!r}"
        elif cells:
            yield reader.line_num, dict(zip(header, cells, strict=True))


def _lines(content: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yields number and object of each line, or an error message."""
    # Not `splitlines`: a JSON string may hold other line ends of Unicode.
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"is no JSON ({error})"
            continue
        yield number, row if isinstance(row, dict) else f"is {line.strip()[:20]}, expected an object in braces"


def _value(row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise ValueError(f"has the keys {', '.join(map(repr, row))}, expected {name!r}")
    return row[name]


def label_name(value: Any) -> str:
    """The name of a label.

    >>> [label_name(value) for value in (" good ", 1, 1.0, "1.0", "01", True)]
    ['good', '1', '1', '1', '1', 'true']

    Raises:
        ValueError: It is empty, or neither a word nor a number.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise ValueError(f"the label is {value!r}, expected a word or a number")
    name = str(value).strip()
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return str(int(number)) if number == int(number) else str(number)
    if not name or isinstance(value, float):
        raise ValueError("the label is empty, expected a word or a number")
    return name
