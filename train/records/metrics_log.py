"""Metrics as lines of JSON: written immediately, read back exactly, and exported as a table at the end."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from train.console import warn
from train.errors import RunFailed, UsageError, check_count
from train.files import check_place, encode_text, is_writer, parse_json, read_bytes, to_json, write_atomic
from train.records.journal import Journal
from train.records.report import escape_csv

_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _nonfinite_name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


class Log(Protocol):
    """A log of metrics, such as `MetricsWriter`."""

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Logs the numbers of one split at one step."""

    def close(self) -> None:
        """Closes the log."""


class MetricsWriter:
    """Appends metrics to `metrics.jsonl`, one object a line: `{"step": 50, "split": "train", "values": {...}}`.

    As a hook of `fit` it writes the split "train". JSON lacks NaN and infinities: they are written as the texts "NaN",
    "Infinity" and "-Infinity", which `read_metrics` reads as numbers. A line cut short by a killed process is dropped
    when the file is opened again; one lost during the run is written again with a warning (see `Journal`). `close`
    writes the same numbers to `metrics.csv`. As a context manager, the writer never hides an earlier error by its own.
    Of several processes only process 0 writes.

    Args:
        workdir: The run's folder.
        every: Steps between two lines, when used as a hook.

    Attributes:
        also: Further logs of the same numbers, such as `train.records.tensorboard.TensorBoard`.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, every: int = 50) -> None:
        self.every = check_count("every", every)
        self.also: list[Log] = []
        self.workdir = check_place(workdir, "a workdir")
        self.path = self.workdir / "metrics.jsonl"
        self._journal = Journal(self.path) if is_writer() else None

    def __call__(self, step: int, state: Any, metrics: Mapping[str, float]) -> None:
        """Writes a line of the split "train", as a hook of `fit`."""
        self.write(step, "train", metrics)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends one line."""
        if self._journal is None:
            return
        record = {"step": step, "split": split, "values": to_json(dict(values), nonfinite=_nonfinite_name)}
        try:
            record["step"] = check_count("step", step, 0)
            _check_record(record)
        except ValueError as error:
            raise UsageError(f"cannot write metrics of step {step!r:.50}, split {split!r:.50}: {error}") from None
        self._journal.add(encode_text(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"))
        for log in self.also:
            log.write(record["step"], split, values)

    def truncate_after(self, step: int) -> None:
        """Drops the lines after `step`, which a resumed run will write again."""
        if self._journal is not None:
            lines = self._journal.lines()
            records = _parse_lines(lines, self.path)
            kept = [line for line, record in zip(lines, records, strict=True) if record["step"] <= step]
            self._journal.replace(kept)

    def close(self) -> None:
        """Writes `metrics.csv`: one row per line, one column per metric."""
        with contextlib.ExitStack() as stack:
            for log in self.also:
                stack.callback(log.close)
            if self._journal is not None:
                self._journal.verify()
                self._write_csv(_parse_lines(self._journal.lines(), self.path))

    def _write_csv(self, records: list[dict[str, Any]]) -> None:
        names = sorted({name for record in records for name in record["values"]})
        buffer = io.StringIO()
        table = csv.writer(buffer, lineterminator="\n")
        table.writerow(["step", "split", *map(escape_csv, names)])
        for record in records:
            table.writerow(
                [record["step"], escape_csv(record["split"]), *(record["values"].get(name) for name in names)]
            )
        write_atomic(self.workdir / "metrics.csv", buffer.getvalue())

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except (UsageError, RunFailed) as error:
            if kind is None:
                raise
            warn(str(error))  # the first error is raised


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl` as objects with `step`, `split` and `values`, which may be NaN or infinite."""
    path = check_place(workdir, "the folder of a run") / "metrics.jsonl"
    try:
        content = read_bytes(path)
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror or error}); give the folder of a run") from error
    return _parse_lines(content.splitlines(), path)  # splitting text would also split at other characters


def _parse_lines(lines: Sequence[bytes], path: Path) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line)
            _check_record(record)
        except ValueError as error:
            raise UsageError(
                f"line {number} of {path} is damaged; delete that line, or the folder to start again ({error})"
            ) from error
        values = {name: _NONFINITE.get(value, value) for name, value in record["values"].items()}
        records.append(record | {"values": values})
    return records


def _check_record(record: Any) -> None:
    """Raises ValueError unless the record has `step`, `split` and `values` as `MetricsWriter` writes them."""
    if not isinstance(record, dict) or not {"step", "split", "values"} <= record.keys():
        raise ValueError("expected an object with step, split and values")
    step, split, values = record["step"], record["split"], record["values"]
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 2**63:
        raise ValueError(f"expected a step of at least 0, got {step!r:.50}")
    if not isinstance(split, str) or not isinstance(values, dict):
        raise ValueError("expected split as text and values as an object")
    for name, value in values.items():
        numeric = value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**1023)
        if not numeric and not (isinstance(value, str) and value in _NONFINITE):
            raise ValueError(f"expected {name!r:.50} as a number, got {value!r:.50}")


def curve(records: Iterable[Mapping[str, Any]], split: str, metric: str) -> tuple[list[int], list[float]]:
    """Steps and finite values of one metric, for `plots.learning_curves`.

    >>> curve([{"step": 5, "split": "train", "values": {"loss": 0.5}}], "train", "loss")
    ([5], [0.5])
    """
    points = [(r["step"], r["values"].get(metric)) for r in records if r["split"] == split]
    kept = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
    return [step for step, _ in kept], [value for _, value in kept]
