"""The report of a run: text, tables and plots as one Markdown file."""

from __future__ import annotations

import os
import unicodedata
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train.errors import UsageError
from train.files import check_place, to_json, write_atomic

_BLANK_LETTERS = "\u115f\u1160\u2800"  # Hangul fillers and the empty Braille cell


class Table(NamedTuple):
    """A table of a report with cells of text or numbers (floats with 4 significant digits)."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Image(NamedTuple):
    """An image of a report: a file inside the workdir, and its caption."""

    path: str | os.PathLike[str]
    caption: str


class Section(NamedTuple):
    """A heading with its content: Markdown text, tables and images."""

    heading: str
    blocks: Sequence[str | Table | Image]


def write_report(workdir: str | os.PathLike[str], title: str, sections: Iterable[Section]) -> Path:
    """Writes `report.md`.

    Args:
        workdir: The run's folder.
        title: The first heading.
        sections: The sections in order. Text is Markdown; titles, headings, cells and captions are plain text and are
            escaped.
    """
    workdir = check_place(workdir, "a workdir")
    parts = [f"# {escape_markdown(title)}"]
    for section in sections:
        parts.append(f"## {escape_markdown(section.heading)}")
        for block in section.blocks:
            if isinstance(block, Table):
                parts.append(markdown_table(block))
            elif isinstance(block, Image):
                parts.append(_markdown_image(workdir, block))
            else:
                parts.append(block.strip())
    path = workdir / "report.md"
    write_atomic(path, "\n\n".join(parts) + "\n")
    return path


def escape_markdown(text: str) -> str:
    r"""Escapes text for Markdown, in one line.

    >>> print(escape_markdown("a|b *c* <d>"))
    a\|b \*c\* &lt;d&gt;
    """
    text = " ".join(text.split())
    for character in "\\`*_[]|~#":
        text = text.replace(character, "\\" + character)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def escape_csv(text: str) -> str:
    """Escapes text for CSV, in one line, so that no spreadsheet treats it as a formula.

    A quote is put before a cell that begins with `=`, `+`, `-`, `@` or their Unicode equivalents (NFKC, dashes), or
    with an invisible character, which could hide one of them.

    >>> escape_csv("=HYPERLINK(1)"), escape_csv("accuracy")
    ("'=HYPERLINK(1)", 'accuracy')
    """
    text = "".join(" " if character.isspace() else character for character in text)
    return "'" + text if text and _may_begin_formula(text[0]) else text


def _may_begin_formula(character: str) -> bool:
    plain = unicodedata.normalize("NFKC", character)
    category = unicodedata.category(plain[0])
    return plain[0] in "=+-@\u2212" or category == "Pd" or category[0] in "CZM" or plain in _BLANK_LETTERS


def format_cell(value: Any) -> str:
    """Text of a cell: floats with 4 significant digits, integers in full, None and NaN as a dash.

    >>> format_cell(0.123456), format_cell(12), format_cell(None), format_cell(1234.5678), format_cell(0.5)
    ('0.1235', '12', '-', '1235', '0.5')
    """
    plain = value if isinstance(value, str) else to_json(value)
    if plain is None:
        return "-"
    if isinstance(plain, float):
        return f"{plain:.0f}" if 1e3 <= abs(plain) < 1e7 else f"{plain:.4g}"
    return escape_markdown(str(plain))


def markdown_table(table: Table) -> str:
    r"""A table in Markdown.

    >>> print(markdown_table(Table(["method", "accuracy"], [["a|b", 0.5]])))
    | method | accuracy |
    | --- | ---: |
    | a\|b | 0.5 |
    """
    rows = [list(row) for row in table.rows]
    for row in rows:
        if len(row) != len(table.columns):
            raise UsageError(f"expected {len(table.columns)} cells in each row of a table, got {len(row)}: {row}")
    numeric = [bool(rows) and all(not isinstance(row[i], str) for row in rows) for i in range(len(table.columns))]
    lines = [
        [escape_markdown(name) for name in table.columns],
        ["---:" if right else "---" for right in numeric],
        *([format_cell(cell) for cell in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown_image(workdir: Path, image: Image) -> str:
    path = Path(image.path)
    path = path if path.is_absolute() or path.is_relative_to(workdir) else workdir / path
    try:
        relative = path.resolve().relative_to(workdir.resolve())
    except ValueError:
        raise UsageError(f"expected an image inside {workdir}, got {image.path}; save it there") from None
    if not path.is_file():
        raise UsageError(f"the report shows {image.path}, which does not exist; save the plot before the report")
    return f"![{escape_markdown(image.caption)}]({urllib.parse.quote(relative.as_posix())})"
