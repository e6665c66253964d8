"""Traces of steps by `jax.profiler`, for TensorBoard, XProf or Perfetto."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from train.console import say, warn
from train.errors import UsageError
from train.files import make_folder
from train.trees import Batch

Step = Callable[[Any, Any], tuple[Any, Any]]


def check_steps(first: int, last: int) -> None:
    """Checks the first and the last step of a profile."""
    if not 1 <= first <= last:
        raise UsageError(f"expected a first and a last step to profile, counted from 1, got {first} and {last}")


@contextmanager
def profiled(step: Step, folder: str | os.PathLike[str], first: int, last: int) -> Iterator[Step]:
    """Traces a step from the beginning of one update to the end of another.

    Args:
        step: `(state, batch) -> (state, metrics)`.
        folder: Folder of the trace, which is written under `plugins/profile`.
        first: Number of the first traced update, counted from 1. Exclude the first of a run, which is compiled.
        last: Number of the last traced update.

    Yields:
        The step to train with. The end of the block also ends the trace.
    """
    check_steps(first, last)
    make_folder(folder, "the folder of a profile")
    number: int | None = None
    tracing = done = False

    @functools.wraps(step)
    def call(state: Any, batch: Batch) -> tuple[Any, Any]:
        nonlocal number, tracing, done
        number = 1 + (int(jax.device_get(state.step)) if number is None else number)
        if not first <= number <= last:
            return step(state, batch)
        if not tracing:
            jax.block_until_ready(state)  # excludes the end of the step before
            jax.profiler.start_trace(os.fspath(folder))
            tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            result = step(state, batch)
        if number == last:
            jax.block_until_ready(result)
            tracing, done = False, True
            _stop(folder)
        return result

    try:
        yield call
    finally:
        if tracing:
            _stop(folder)
        if tracing or done:
            say(f"profile of steps {first} to {min(number or 0, last)}: {os.path.relpath(folder)}")
        elif not os.listdir(folder):  # may exist from before the run was resumed
            say(f"note: no profile, because no step from {first} to {last} was made")


def _stop(folder: str | os.PathLike[str]) -> None:
    """Writes the trace. Failure causes a warning only: it neither ends the run nor hides the reason for its end."""
    try:
        jax.profiler.stop_trace()
    except Exception as error:  # XLA raises many kinds
        warn(f"cannot write the profile to {folder} ({str(error).splitlines()[0]:.300})")
