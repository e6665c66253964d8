"""The command line of all experiments: options from a dataclass, one sentence for an error, a closing table."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import tyro

from experiments.allocator import keep_freed_memory
from experiments.devices import joined
from train.cache import enable_compilation_cache
from train.console import say, unheard
from train.errors import RunFailed, UsageError
from train.files import escape_output
from train.lock import unlock_all
from train.logging import open_workdir
from train.memory import is_out_of_memory
from train.places import check_place, inside
from train.processes import by_first, check_same
from train.profiling import check_steps
from train.tensorboard import summary_writer

C = TypeVar("C", bound="StudyConfig")
OF_THE_CALL = ("workdir", "allow_changed", "dry_run", "profile", "tensorboard", "data.skip_budget", "mesh", "processes")
"""Options that may differ when a run is taken up again: they change nothing that is computed."""


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What every experiment can be told."""

    seed: int = 0
    """Seed of everything random; a study of several seeds counts up from it."""
    workdir: str | None = None
    """Folder of the run, resumed if it exists (default: runs/NAME, or runs/NAME-fast with --fast-dev-run)."""
    max_consecutive_bad: int = 10
    """Updates with a loss or gradient that is not finite are skipped. After so many in a row the last checkpoint is
    taken up, with fresh data."""
    fast_dev_run: bool = False
    """Run the whole path on little data for a few steps, to see that it works; the numbers mean nothing."""
    allow_changed: str = ""
    """What may differ from the start of a run that goes on, by name and with commas: any option, data, dtype, x64."""
    dry_run: bool = False
    """Print parameters, operations, memory and time of a training step, then leave; nothing is written."""
    profile: tuple[int, int] | None = None
    """First and last update to trace by jax.profiler, into the folder `profile` of each training."""
    tensorboard: bool = False
    """Log for TensorBoard as well (needs the extra `tensorboard`)."""

    def fast(self) -> Self:
        """What `--fast-dev-run` starts from; an option that is given beside it still counts."""
        return self

    @property
    def allowed_names(self) -> tuple[str, ...]:
        """The names in `allow_changed`; the command line's hyphens mean underscores."""
        return tuple(name.strip().replace("-", "_") for name in self.allow_changed.split(",") if name.strip())


def run(
    main: Callable[[C], Any], config: type[C], name: str, doc: str | None, argv: Sequence[str] | None = None
) -> None:
    """Parses the command line and runs an experiment, with a compilation cache in the user's cache folder.

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
    escape_output()
    keep_freed_memory()
    enable_compilation_cache()
    try:
        parsed = _parse(config, name, doc, arguments)
        with joined(parsed):
            main(parsed)
    except UsageError as error:
        _leave(error, 2)
    except (RunFailed, MemoryError) as error:
        _leave(error if isinstance(error, RunFailed) else RunFailed("the machine has too little memory"), 1)
    except jax.errors.JaxRuntimeError as error:  # outside of a training, which says more
        if not is_out_of_memory(error):
            raise
        _leave(RunFailed(f"out of memory ({str(error).splitlines()[0]}); try a smaller batch or model"), 1)
    except BrokenPipeError:  # The reader, `head` say, has seen enough.
        _give_up_stdout()
        raise SystemExit(1) from None
    finally:
        unlock_all()


def _parse(config: type[C], name: str, doc: str | None, arguments: Sequence[str]) -> C:
    fast = "--fast-dev-run" in (word.replace("_", "-") for word in arguments)
    default: Any = dataclasses.replace(config().fast(), fast_dev_run=True) if fast else tyro.MISSING_NONPROP
    program = f"python -m experiments.{name}"
    try:
        with _printing():
            parsed = tyro.cli(config, prog=program, description=doc, args=arguments, default=default)
    except (RunFailed, BrokenPipeError):  # it had something to say
        if {"-h", "--help"} & {*arguments}:
            raise
        raise SystemExit(2) from None
    _check_values(parsed, config())
    if parsed.tensorboard:
        summary_writer()  # not only when the data is there
    if parsed.profile is not None:
        check_steps(*parsed.profile)
    return parsed


def _check_values(config: Any, default: Any, prefix: str = "--") -> None:
    """Refuses an empty list, and a number below 1 where the default is at least 1, or below 0."""
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        option = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            _check_values(value, usual, f"{option}.")
        elif value == () and usual:
            raise UsageError(f"{option} needs at least one value")
        numbers = value if isinstance(value, tuple) else (value,)
        usually = usual if isinstance(usual, tuple) else (usual,)
        least = 1 if all(isinstance(x, int) and x >= 1 for x in usually) else 0
        for number in numbers:
            if isinstance(number, int) and not isinstance(number, bool) and number < least:
                raise UsageError(f"{option} must be at least {least}, but it is {number}")


def _leave(error: Exception, code: int) -> None:
    say(f"error: {error}")
    raise SystemExit(code)


def print_results(text: str) -> None:
    """Prints what was asked for, to standard output.

    Raises:
        RunFailed: It cannot be written.
        BrokenPipeError: The reader has seen enough.
    """
    with _printing():
        print(text, flush=True)


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up_stdout()
        raise RunFailed(
            f"cannot print ({error.strerror or error}); run the same command again with standard output elsewhere"
        ) from error


def _give_up_stdout() -> None:
    """Lets go of what standard output did not take, or Python would end with code 120."""
    with unheard():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _mention(text: str) -> None:
    """Prints a line to standard output that is no result: where that is closed or full, the run goes on without."""
    if sys.stdout is not None:
        say(text, sys.stdout)


def start(config: StudyConfig, name: str) -> Path:
    """Opens the run's folder, for this process alone, and says where it is.

    Args:
        config: the experiment's config; all of it but what `allow_changed` names must equal that of a run resumed.
        name: of the experiment.

    Returns:
        The folder, with `config.json` and `environment.json`; in a dry run only its name.

    Raises:
        UsageError: the folder holds a run of another config, or another process is writing there.
    """
    usual = inside("runs", f"{name}-fast" if config.fast_dev_run else name)
    place = usual if config.workdir is None else check_place(config.workdir, "--workdir")
    if config.dry_run:
        _mention(f"{name}: a dry run, nothing is written")
        return place
    settings = _settings(config)
    check_same({"config": settings, "workdir": str(place)})
    by_first(lambda: open_workdir(place, settings, allow_changed=config.allowed_names))
    _mention(f"{name}: writing to {os.path.relpath(place)}")
    return place


def _settings(config: StudyConfig) -> dict[str, Any]:
    """All options that count for what is computed."""

    def kept(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        return {
            key: kept(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in values.items()
            if prefix + key not in OF_THE_CALL
        }

    return kept(dataclasses.asdict(config))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with aligned columns; floats get three decimals.

    >>> print(table("Result", ["model", "accuracy"], [["linear", 0.5], ["deep", 0.75]]))
    Result
    model   accuracy
    linear     0.500
    deep       0.750
    """
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    return "\n".join([title, *lines])


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
    print_results(f"\n{table(title, columns, rows)}\n\nreport: {os.path.relpath(workdir / 'report.md')}")


def parameter_count(params: Any) -> int:
    """Number of entries of all arrays of a parameter tree.

    >>> import numpy as np
    >>> parameter_count({"kernel": np.zeros((2, 3)), "bias": np.zeros(3)})
    9
    """
    if isinstance(params, Mapping):
        return sum(parameter_count(value) for value in params.values())
    return int(params.size)
