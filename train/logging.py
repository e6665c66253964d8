"""What a run leaves behind in its workdir: config, environment, metrics, summary (and the report, from `report.py`)."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax

from train.console import say
from train.errors import UsageError
from train.files import ABSENT, differences, disk_error, dump_json, is_writer, remove_leftovers, to_json, write_atomic
from train.identity import refuse_changes
from train.lock import lock_folder, unlock_folder
from train.report import Image as Image
from train.report import Section as Section
from train.report import Table as Table
from train.report import escape_csv as escape_csv
from train.report import write_report as write_report

_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "chex",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
    "lossfns",
)


def open_workdir(workdir: str | os.PathLike[str], config: Any, *, allow_changed: Collection[str] = ()) -> Path:
    """Creates a run's folder, or opens it again for the same config, and keeps other processes from writing there.

    Writes `config.json` and `environment.json`. A folder that belongs to another config is refused, because its metrics
    and checkpoints would be mixed with those of this run (it is taken over if it holds nothing but these two files); so
    is one that another process has opened, until that ends or calls `close_workdir`.

    Args:
        workdir: The folder; its parents are created as well.
        config: A mapping or dataclass of plain values.
        allow_changed: Dotted names of settings that may differ from the run's start ("data" stands for all that begins
            with "data." as well). `config.json` then tells the new ones, `config_changes.jsonl` what changed and when.

    Returns:
        The folder.

    Raises:
        UsageError: The folder holds another run or something else, another process has opened it, or it cannot be
            written.
    """
    workdir = Path(workdir)
    wanted = to_json(config, nonfinite=str)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        content = sorted(name for name in os.listdir(workdir) if not name.startswith("."))
    except OSError as error:
        raise disk_error("create the workdir", workdir, error) from error
    ways_out = "give another --workdir, or delete that folder to start again"
    if content and "config.json" not in content:
        raise UsageError(
            f"{workdir} is not empty and is no run's folder (it has {content[0]} but no config.json); {ways_out}"
        )
    if jax.process_index() == 0:
        lock_folder(workdir)
        remove_leftovers(workdir)
    path = workdir / "config.json"
    if {*content} - {"config.json", "environment.json"}:  # else the run ended before it began, by a mistyped name say
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read ({error}); {ways_out}") from error
        changed = refuse_changes(
            str(workdir), "a run with another config", found, wanted, allowed=allow_changed, ways_out=ways_out
        )
        if changed:
            _record_changes(workdir / "config_changes.jsonl", changed)
            write_atomic(path, dump_json(wanted))
    else:
        write_atomic(path, dump_json(wanted))
    _record_environment(workdir / "environment.json")
    return workdir


def close_workdir(workdir: str | os.PathLike[str]) -> None:
    """Lets other processes write to the folder of a run, as the end of this process does."""
    unlock_folder(workdir)


def _record_changes(path: Path, changed: Mapping[str, tuple[Any, Any]]) -> None:
    values = {name: [None if value is ABSENT else value for value in pair] for name, pair in changed.items()}
    line = json.dumps({"date": _now(), "changed": values}, ensure_ascii=False) + "\n"
    write_atomic(path, (path.read_text(encoding="utf-8") if path.exists() else "") + line)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _record_environment(path: Path) -> None:
    """Writes the environment; says so when a run goes on in another one than it was started in."""
    now = environment()
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if isinstance(before, dict):
        names = [name for name in differences(before, now) if name != "date"]
        if not names:
            return
        say(f"note: this run was started in another environment (different: {', '.join(names)})")
    write_atomic(path, dump_json(now))


def environment() -> dict[str, Any]:
    """What a reader needs to judge a number: versions, devices, commit and date; nothing that names the machine.

    Returns:
        An object of JSON types. `git` is None where the code is not in a checkout; `git.dirty` tells whether tracked
        files differ from the commit.

    >>> sorted(environment())
    ['date', 'devices', 'git', 'packages', 'platform', 'python']
    """
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    devices = jax.devices()
    return {
        "date": _now(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "devices": {"backend": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "packages": versions,
        "git": _git_state(Path(__file__).resolve()),
    }


def _git_state(source: Path) -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that tracks this very file (not of one that merely surrounds it)."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source.parent), *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=clean)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", source.name)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _nonfinite_name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


class Log(Protocol):
    """Something that takes numbers: see `MetricsWriter.write`."""

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Takes the numbers of one split at one step."""

    def close(self) -> None:
        """Ends the log."""


class MetricsWriter:
    """Appends metrics to `metrics.jsonl`, one object a line: `{"step": 50, "split": "train", "values": {...}}`.

    As a hook of `fit` it writes the split "train". JSON has no numbers for NaN and the infinities: they are written as
    "NaN", "Infinity" and "-Infinity", and `read_metrics` reads them as such. A line cut short by a killed process is
    dropped when the file is opened again; `close` writes the same numbers as `metrics.csv`. Of several processes only
    process 0 writes.

    Args:
        workdir: The run's folder.
        every: Steps between two lines, when used as a hook.

    Attributes:
        also: Further logs that get the same numbers, such as `train.tensorboard.TensorBoard`.

    Raises:
        UsageError: The file cannot be read or written.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, every: int = 50) -> None:
        self.every = every
        self.also: list[Log] = []
        self.workdir = Path(workdir)
        self.path = self.workdir / "metrics.jsonl"
        try:
            text = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise disk_error("read", self.path, error) from error
        if not self.path.exists() or not text.endswith(b"\n"):
            write_atomic(self.path, text[: text.rfind(b"\n") + 1])

    def __call__(self, step: int, state: Any, metrics: Mapping[str, float]) -> None:
        """The hook: one line of the split "train"."""
        self.write(step, "train", metrics)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends one line.

        Args:
            step: Number of steps done.
            split: "train", "validation", "test" or any other name.
            values: The numbers by name.

        Raises:
            RunFailed: The disk is full or failing; the lines before are intact.
        """
        if not is_writer():
            return
        record = {"step": int(step), "split": split, "values": to_json(dict(values), nonfinite=_nonfinite_name)}
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        size = -1
        try:
            with open(self.path, "ab", buffering=0) as file:
                size = file.tell()
                data = memoryview(line.encode())
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())  # a checkpoint that comes later must not outlive it
        except OSError as error:
            if size >= 0:
                os.truncate(self.path, size)  # a full disk may have taken half a line
            raise disk_error("write", self.path, error) from error
        for log in self.also:
            log.write(int(step), split, values)

    def truncate_after(self, step: int) -> None:
        """Drops the lines of steps after `step`, which a resumed run will write again."""
        if not is_writer():
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = b"".join(
            line for line, record in zip(lines, read_metrics(self.workdir), strict=True) if record["step"] <= step
        )
        if len(kept) < sum(map(len, lines)):
            write_atomic(self.path, kept)

    def close(self) -> None:
        """Writes `metrics.csv`: one row a line, one column a metric."""
        if not is_writer():
            return
        records = read_metrics(self.workdir)
        names = sorted({name for record in records for name in record["values"]})
        buffer = io.StringIO()
        table = csv.writer(buffer, lineterminator="\n")
        table.writerow(["step", "split", *map(escape_csv, names)])
        for record in records:
            table.writerow(
                [record["step"], escape_csv(record["split"]), *(record["values"].get(name) for name in names)]
            )
        write_atomic(self.workdir / "metrics.csv", buffer.getvalue())
        for log in self.also:
            log.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` as objects with `step`, `split` and `values`, not all of which need be finite.

    Raises:
        UsageError: The file is missing, or one of its lines is no such object.
    """
    path = Path(workdir) / "metrics.jsonl"
    try:
        lines = path.read_bytes().splitlines()  # of text it would break names at further characters
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error}); give the folder of a run") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            values = {name: _NONFINITE.get(str(value), value) for name, value in dict(record["values"]).items()}
            _ = int(record["step"]), str(record["split"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"line {number} of {path} is damaged; delete that line, or the folder to start again"
            ) from error
        records.append(record | {"values": values})
    return records


def curve(records: Iterable[Mapping[str, Any]], split: str, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, as `plots.learning_curves` takes them; what is not finite is left out.

    >>> curve([{"step": 5, "split": "train", "values": {"loss": 0.5}}], "train", "loss")
    ([5], [0.5])
    """
    points = [(r["step"], r["values"].get(metric)) for r in records if r["split"] == split]
    kept = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
    return [step for step, _ in kept], [value for _, value in kept]


def write_summary(workdir: str | os.PathLike[str], summary: Mapping[str, Any]) -> Path:
    """Writes the run's final numbers to `summary.json` (not finite: null) and returns its path."""
    path = Path(workdir) / "summary.json"
    write_atomic(path, dump_json(to_json(dict(summary))))
    return path
