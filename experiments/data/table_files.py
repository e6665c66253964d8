"""A user's table: numbers and categories of any columns, and a target column."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.data.dirty import encode
from experiments.data.label_files import label_name, read_rows
from experiments.data.records import Skips
from experiments.data.tables import Table
from train.errors import UsageError

Task = Literal["classification", "regression"]
GAPS = frozenset({"", "?", "na", "n/a", "#n/a", "nan", "null", "none"})
"""Cells without a value, in lower case."""
MOST_CLASSES, LEAST_KNOWN, LEAST_ROWS = 20, 20, 100
"""Maximum number of distinct numbers in a target of classes; minimum number of known cells in a column, and of rows."""
MOSTLY = 0.9
"""Share of numbers in a column above which other cells count as mistakes."""


@dataclasses.dataclass(frozen=True)
class TableConfig:
    """Your own table."""

    path: str | None = None
    """A file of your own to read instead: CSV or TSV with a header, or JSONL with an object a line; UTF-8."""
    target: str = "target"
    """Column or key with the target."""
    task: Task | None = None
    """Kind of the target (None: a regression if it has more than 20 different numbers, or fractions)."""
    skip_budget: int = 0
    """Maximum number of rows to skip for a wrong number of cells or a missing target; one more ends the run."""


def read_table_file(config: TableConfig, *, task: Task | None = None) -> tuple[Table, tuple[str, ...]]:
    """Reads a table: numbers unchanged, and a column of 0 and 1 for each common level of a category.

    Args:
        config: The file (`path`) and its target.
        task: Required kind of the target; None for either.

    Returns:
        The table, with NaN where a number is missing and a target of float32, or of int32 classes from the most
        frequent to the rarest; and the names of the classes. Columns with fewer than 20 numbers or a single value are
        left out.

    Raises:
        UsageError: The file, its header or a row is not as expected, or there is nothing to learn.
    """
    file, skips, rows = Path(config.path or ""), Skips(Path(config.path or "").name, config.skip_budget), []
    for line, row in read_rows(file, {"--data.target": config.target}):
        try:
            if isinstance(row, str):
                raise ValueError(row)
            if config.target not in row:
                raise ValueError(f"has the keys {', '.join(map(repr, row))}, expected {config.target!r}")
            if is_gap(row[config.target]):
                raise ValueError(f"{config.target!r} is empty, expected a word or a number")
            rows.append((line, row))
        except ValueError as error:
            skips.skip("line", line, error)
    if len(rows) < LEAST_ROWS:
        raise UsageError(f"{file.name} has {len(rows)} rows, expected at least {LEAST_ROWS}; give more of them")
    lines = [line for line, _ in rows]
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    columns = {name: as_column(name, [row.get(name) for _, row in rows], lines, file.name) for name in names}
    target = columns.pop(config.target)
    features, kept = encode(leave_out_unknown(columns))
    if not kept:
        raise UsageError(
            f"no column of {file.name} but {config.target!r} has different values; add a column to predict it from"
        )
    wanted = config.task or guess_task(target)
    if task not in (None, wanted):
        raise UsageError(
            f"this study needs a {task}, but {config.target!r} of {file.name} is for a {wanted}; give another "
            f"--data.target, or --data.task {task}"
        )
    if wanted == "regression":
        return Table(file.name, features, as_numbers(target, config.target, file.name), kept), ()
    labels, classes = as_classes([row[config.target] for _, row in rows], config.target, file.name)
    return Table(file.name, features, labels, kept), classes


def is_gap(cell: Any) -> bool:
    """Whether a cell has no value.

    >>> [is_gap(cell) for cell in (None, " ", "NA", "?", float("nan"), 0, "no")]
    [True, True, True, True, True, False, False]
    """
    return cell is None or str(cell).strip().lower() in GAPS


def number_of(cell: Any) -> float | None:
    """The finite number in a cell, or None; true and false are 1 and 0.

    >>> [number_of(cell) for cell in ("1.5", " 2", True, "1e3", "x", "inf", [1])]
    [1.5, 2.0, 1.0, 1000.0, None, None, None]
    """
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def as_column(name: str, cells: Sequence[Any], lines: Sequence[int], file: str) -> np.ndarray:
    """Numbers with NaN for gaps, float64 [N]; or words with None for gaps, object [N].

    >>> as_column("age", ["30", "", "41"], [2, 3, 4], "a.csv").tolist()
    [30.0, nan, 41.0]

    Raises:
        UsageError: Nearly all cells are numbers, with an exception; or a cell is a list or an object.
    """
    known = {place: cell for place, cell in enumerate(cells) if not is_gap(cell)}
    numbers = {place: value for place, cell in known.items() if (value := number_of(cell)) is not None}
    if len(numbers) == len(known):
        return np.array([numbers.get(place, math.nan) for place in range(len(cells))])
    wrong = next(place for place in known if place not in numbers)
    if len(numbers) >= MOSTLY * len(known):
        raise UsageError(
            f"column {name!r} of {file} has numbers, but line {lines[wrong]} has {cells[wrong]!r}; write a number, or "
            "nothing where it is not known"
        )
    if held := [place for place in known if isinstance(cells[place], list | dict)]:
        raise UsageError(f"{name!r} in line {lines[held[0]]} of {file} is no number and no word; write it as one")
    return np.array([str(known[place]).strip() if place in known else None for place in range(len(cells))], object)


def leave_out_unknown(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns, except those with some but fewer than `LEAST_KNOWN` numbers."""
    return {
        name: values
        for name, values in columns.items()
        if values.dtype == object or np.isfinite(values).sum() >= LEAST_KNOWN
    }


def guess_task(target: np.ndarray) -> Task:
    """Classification, unless the target has fractions or more than `MOST_CLASSES` different numbers.

    >>> guess_task(np.array([0.0, 1.0, 1.0])), guess_task(np.array([0.5, 1.0]))
    ('classification', 'regression')
    """
    if target.dtype == object:
        return "classification"
    return "regression" if len(np.unique(target)) > MOST_CLASSES or np.any(target % 1) else "classification"


def as_numbers(target: np.ndarray, name: str, file: str) -> np.ndarray:
    """The target of a regression, float32 [N].

    Raises:
        UsageError: It holds words, or is constant.
    """
    if target.dtype == object:
        word = next(cell for cell in target if number_of(cell) is None)
        raise UsageError(
            f"the target {name!r} of {file} has words such as {word!r}, expected numbers for a regression; use "
            "--data.task classification, or another --data.target"
        )
    if np.ptp(target) == 0:
        raise UsageError(f"the target {name!r} of {file} is {target[0]:g} in all rows; give one that differs")
    return target.astype(np.float32)


def as_classes(cells: Iterable[Any], name: str, file: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes int32 [N], numbered from the most frequent to the rarest, and their names.

    >>> as_classes(["no", "yes", "no"], "bad", "a.csv")[0].tolist()
    [0, 1, 0]

    Raises:
        UsageError: There is only one class.
    """
    words = [label_name(cell) for cell in cells]
    classes = tuple(word for word, _ in sorted(Counter(words).items(), key=lambda item: (-item[1], item[0])))
    if len(classes) < 2:
        raise UsageError(f"the target {name!r} of {file} is {classes[0]!r} in all rows; give one that differs")
    place = {word: number for number, word in enumerate(classes)}
    return np.array([place[word] for word in words], np.int32), classes


def read_task(config: TableConfig, least: int) -> dict[str, Table]:
    """A user's table by its task: regression, or two classes with the rarer one as 1.

    Args:
        config: The file and its target.
        least: Minimum number of rows.

    Raises:
        UsageError: As `read_table_file`; or there are more than two classes, or fewer rows.
    """
    table, classes = read_table_file(config)
    if len(classes) > 2:
        raise UsageError(
            f"{config.target!r} of {table.name} has {len(classes)} classes, expected two; experiments.imbalance "
            "takes more, and --data.task regression takes the numbers as they are"
        )
    if len(table) < least:
        raise UsageError(
            f"{table.name} has {len(table)} rows, and {least} are needed for --batch-size examples in each fold; give "
            "more rows or a smaller --batch-size"
        )
    return {"classification" if classes else "regression": table}
