"""The command line of all experiments: options from a dataclass, one sentence for an error, a closing table."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from train.errors import RunFailed, UsageError
from train.logging import open_workdir

C = TypeVar("C", bound="StudyConfig")


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What every experiment can be told."""

    seed: int = 0
    """Seed of everything random; a study of several seeds counts up from it."""
    workdir: str | None = None
    """Folder of the run, resumed if it exists (default: runs/NAME, or runs/NAME-fast with --fast-dev-run)."""
    fast_dev_run: bool = False
    """Run the whole path on little data for a few steps, to see that it works; the numbers mean nothing."""


def run(
    main: Callable[[C], Any], config: type[C], name: str, doc: str | None, argv: Sequence[str] | None = None
) -> None:
    """Parses the command line and runs an experiment.

    Args:
        main: takes the config; what it prints last is its result table.
        config: the experiment's dataclass; its field docstrings are the `--help`.
        name: of the experiment, as in `python -m experiments.NAME`.
        doc: the module's docstring.
        argv: the arguments, those of the process if None. `--config.a.b=3` means `--a.b=3`.

    Raises:
        SystemExit: code 2 for what the user can mend, 1 for a run that failed; the message is one sentence on stderr.
    """
    arguments = [
        "--" + word.removeprefix("--config.") if word.startswith("--config.") else word
        for word in (sys.argv[1:] if argv is None else argv)
    ]
    try:
        main(tyro.cli(config, prog=f"python -m experiments.{name}", description=doc, args=arguments))
    except UsageError as error:
        _leave(error, 2)
    except RunFailed as error:
        _leave(error, 1)
    except BrokenPipeError:  # The reader, `head` say, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _leave(error: Exception, code: int) -> None:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(code)


def start(config: StudyConfig, name: str) -> Path:
    """Opens the run's folder and says where it is.

    Args:
        config: the experiment's config; all of it but the folder must equal that of a run resumed.
        name: of the experiment.

    Returns:
        The folder, with `config.json` and `environment.json`.

    Raises:
        UsageError: the folder holds a run of another config.
    """
    default = Path("runs") / (f"{name}-fast" if config.fast_dev_run else name)
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key != "workdir"}
    workdir = open_workdir(config.workdir or default, settings)
    print(f"{name}: writing to {os.path.relpath(workdir)}", flush=True)
    return workdir


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table with aligned columns; floats get three decimals.

    >>> print_table("Result", ["model", "accuracy"], [["linear", 0.5], ["deep", 0.75]])
    Result
    model   accuracy
    linear     0.500
    deep       0.750
    """
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print(title)
    for row in cells:
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))))


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation over runs.

    >>> mean_and_spread([0.4, 0.6])
    '0.500 ± 0.141'
    """
    n = len(values)
    mean = sum(values) / n
    deviation = (sum((v - mean) ** 2 for v in values) / (n - 1)) ** 0.5 if n > 1 else 0.0
    return f"{mean:.3f} ± {deviation:.3f}"


def finish(workdir: Path, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints the closing table and the place of the report."""
    print()
    print_table(title, columns, rows)
    print(f"\nreport: {os.path.relpath(workdir / 'report.md')}", flush=True)


def parameter_count(params: Any) -> int:
    """Number of entries of all arrays of a parameter tree.

    >>> import numpy as np
    >>> parameter_count({"kernel": np.zeros((2, 3)), "bias": np.zeros(3)})
    9
    """
    if isinstance(params, Mapping):
        return sum(parameter_count(value) for value in params.values())
    return int(params.size)
