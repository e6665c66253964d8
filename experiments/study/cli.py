"""Command line of all studies: options from a dataclass, errors in one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro

from experiments.study.allocator import keep_freed_memory
from experiments.study.config import StudyConfig, fields, nested, settings
from experiments.study.devices import joined
from train.console import say, unheard
from train.devices.compilation_cache import enable_compilation_cache
from train.devices.memory import is_out_of_memory
from train.devices.profiling import check_steps
from train.errors import RunFailed, UsageError
from train.files import escape_output
from train.records.lock import unlock_all
from train.records.tensorboard import summary_writer

C = TypeVar("C", bound=StudyConfig)
PRETRAINING = ("mesh", "processes")
"""Groups of options that only some studies have."""


def study_name(config: type) -> str:
    """Returns the name of the study of a config, even if its file is run as a program."""
    module = sys.modules[config.__module__]
    spec = getattr(module, "__spec__", None)
    return (spec.name if spec is not None else Path(module.__file__ or config.__name__).stem).rpartition(".")[2]


def run(main: Callable[[C], Any], config: type[C], doc: str | None, argv: Sequence[str] | None = None) -> None:
    """Parses the command line and runs a study, with a compilation cache in the user's cache folder.

    Args:
        main: The study, a function of the config; it prints the final table last.
        config: The study's dataclass; its field docstrings are the `--help`.
        doc: The module's docstring.
        argv: The arguments; None takes the ones of the process. `--config.a.b=3` means `--a.b=3`.

    Raises:
        SystemExit: Code 2 for an error that the user can fix, 1 for a failed run; stderr gets one sentence.
    """
    arguments = [
        "--" + word.removeprefix("--config.") if word.startswith("--config.") else word
        for word in (sys.argv[1:] if argv is None else argv)
    ]
    escape_output()
    keep_freed_memory()
    enable_compilation_cache()
    before = jax.config.jax_debug_nans  # type: ignore[attr-defined]
    try:
        parsed = _parse(config, doc, arguments)
        if parsed.print_config:
            print_results(json.dumps(nested(settings(parsed)), indent=2))
            return
        jax.config.update("jax_debug_nans", before or parsed.debug_nans)
        with joined(parsed):
            main(parsed)
    except UsageError as error:
        _leave(error, 2)
    except (RunFailed, MemoryError) as error:
        _leave(error if isinstance(error, RunFailed) else RunFailed("the machine has too little memory"), 1)
    except jax.errors.JaxRuntimeError as error:  # outside of a training, which would give details
        if not is_out_of_memory(error):
            raise
        _leave(RunFailed(f"out of memory ({str(error).splitlines()[0]}); try a smaller batch or model"), 1)
    except BrokenPipeError:  # The reader, such as `head`, has closed the pipe.
        _give_up_stdout()
        raise SystemExit(1) from None
    finally:
        jax.config.update("jax_debug_nans", before)
        unlock_all()


def _parse(config: type[C], doc: str | None, arguments: Sequence[str]) -> C:
    name, usual = study_name(config), config()
    for group in PRETRAINING:
        if not hasattr(usual, group) and any(word.startswith(f"--{group}.") for word in arguments):
            raise UsageError(
                f"{name} trains small models, each on one process with whole parameters, and has no --{group}.*; the "
                "pretraining studies, such as causal_lm, have it"
            )
    fast = "--fast-dev-run" in (word.replace("_", "-") for word in arguments)
    default: Any = dataclasses.replace(usual.fast(), fast_dev_run=True) if fast else tyro.MISSING_NONPROP
    program = f"python -m experiments.{name}"
    try:
        with _printing():
            parsed = tyro.cli(config, prog=program, description=_joined_lines(doc), args=arguments, default=default)
    except (RunFailed, BrokenPipeError):  # the message could not be printed
        if {"-h", "--help"} & {*arguments}:
            raise
        raise SystemExit(2) from None
    check_values(parsed)
    if parsed.tensorboard:
        summary_writer()  # fails before the data are read
    if parsed.profile is not None:
        check_steps(*parsed.profile)
    return parsed


def _joined_lines(doc: str | None) -> str:
    """Puts each paragraph on one line: tyro would break it before a line that begins with a digit or a sign."""
    return re.sub(r"(?<=[^\n])\n(?=[^\n -])", " ", doc or "")


def check_values(config: StudyConfig) -> None:
    """Rejects empty lists, numbers below 0, and numbers below 1 if the default is at least 1."""
    defaults = {name: value for name, _, value in fields(type(config)())}
    for name, _, value in fields(config):
        usual, option = defaults.get(name), "--" + name.replace("_", "-")
        if value == () and usual:
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
    """Prints results to standard output.

    Raises:
        RunFailed: It cannot be written.
        BrokenPipeError: The reader has closed the pipe.
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
            f"cannot print ({error.strerror or error}); run the same command again with another standard output"
        ) from error


def _give_up_stdout() -> None:
    """Discards unwritten standard output; otherwise Python would exit with code 120."""
    with unheard():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def mention(text: str) -> None:
    """Prints a line that is not a result; if standard output is closed or full, the line is dropped."""
    if sys.stdout is not None:
        say(text, sys.stdout)
