"""The training loop: batches, a step, and hooks.

    state = fit(state, step, data, steps=1000, hooks=[writer, evaluate, checkpointer])

It runs until `state.step == steps`, so a restored state continues where it stopped. The metrics of a step are fetched
while the next step runs, unless a hook needs the state.
"""

from __future__ import annotations

import functools
import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

import jax

from train.calls import Call, Calls
from train.console import say
from train.devices.memory import MemoryErrors
from train.devices.processes import preempted
from train.errors import RunFailed, UsageError
from train.files import is_writer
from train.guard import BadSteps, find_nonfinite, not_finite, outcome
from train.hooks import Hook, StopTraining, last_good, last_save
from train.metrics import Metrics, means
from train.records.progress import Progress

State = TypeVar("State")


def fit(
    state: State,
    step: Callable[[State, Any], tuple[State, Any]],
    data: Iterable[Any],
    *,
    steps: int,
    hooks: Sequence[Hook] = (),
    log_every: int = 50,
    label: str = "",
    progress: bool = True,
    finite: Sequence[str] = ("loss", "grad_norm"),
    bad_steps: BadSteps | None = None,
    steps_per_call: int = 1,
) -> State:
    """Trains until `state.step == steps`.

    Args:
        state: A `TrainState`. A step that donates reuses its memory.
        step: `(state, batch) -> (state, metrics)` with metrics `{name: (sum, weight)}`.
        data: Batches, at least as many as the remaining steps. Give the iterator itself if it is to be checkpointed.
        steps: Total number of steps, counted from the start of the run.
        hooks: See `Hook`. They are called in this order, saving hooks last.
        log_every: Steps between two updates of the metrics in the progress bar.
        label: Name of the training in the progress bar.
        progress: Whether to show it.
        finite: Metrics that end the run when they are not finite. Names that the step lacks are ignored.
        bad_steps: Handles steps that `skip_nonfinite` skipped, which then do not end the run. Nothing is saved during a
            series of them, so the last checkpoint precedes the series. A state that is not finite despite a finite loss
            and gradient is never saved; training returns to the last checkpoint.
        steps_per_call: Maximum number of steps in one call to the device; a call ends where a hook is due. For models
            with steps shorter than the overhead of a call. It changes only rounding (the compiler may fuse steps
            differently) and interruptions, which wait for the end of the call.

    Returns:
        The state after the last step: step `steps`, or earlier if a hook stopped the training.

    Raises:
        UsageError: The data end before the training, or a hook has no valid `every`.
        RunFailed: A loss or gradient is not finite (no hook was called for that step, so it was not saved), the state
            to be saved or returned is not finite, memory is too short (`OutOfMemory` says what to lower), or a process
            that prepares the data died.
        SystemExit: After SIGTERM (code 143) or Ctrl-C (code 130). The step was finished and the saving hooks ran,
            unless its state is not finite.
    """
    _check_hooks(hooks, log_every, steps_per_call)
    start = int(jax.device_get(getattr(state, "step")))  # noqa: B009 (State is any type here)
    if start >= steps or any(getattr(hook, "stopped", False) for hook in hooks):
        return state
    batches, wait = iter(data), _must_wait()
    pending: Call | None = None
    number = seen = start
    with (
        _Interrupts() as interrupts,
        Progress(steps, start=start, label=label, enabled=progress and is_writer()) as shown,
        MemoryErrors(step) as memory,
    ):

        def look(number: int, metrics: Metrics) -> bool:  # whether to return to a checkpoint
            nonlocal seen
            if (went := outcome(metrics)) == "done" or (went == "skipped" and bad_steps is None):
                _check_finite(number, metrics, finite, hooks)
            due, seen = number // log_every > seen // log_every or number == steps, number
            shown.update(number, _loss_first(metrics) if due else None)
            return bad_steps is not None and bad_steps.count(number, metrics)

        back = None if bad_steps is None else functools.partial(bad_steps.roll_back, hooks=hooks)
        calls = Calls(state, step, memory, finite, look, back)
        while number < steps:
            size = min([steps_per_call, steps - number, *(hook.every - number % hook.every for hook in hooks)])
            drawn = [_next_batch(batches, number + 1 + i, start, steps) for i in range(size)]
            made = calls.make(number + 1, drawn)  # up to the next hook
            if pending is not None and calls.check_metrics(pending):  # of the previous call, while this one runs
                made = calls.make(number + 1, drawn)  # again, from a checkpoint
            pending, number = made, number + size
            received = signal.SIGTERM if preempted() else interrupts.received
            due = received is not None or number == steps or any(number % hook.every == 0 for hook in hooks)
            if due or wait:  # hooks need the state after this call
                calls.check_metrics(pending)
                pending = None
            if due:
                when = number == steps, received is not None
                calls.state, unfit = _fit_to_save(number, calls.state, hooks, *when, bad_steps)
                ends = _call_hooks(hooks, number, calls.state, means(calls.latest), *when, unfit)
                if received is not None:
                    interrupts.leave(received, number, hooks, unfit)
                if ends:
                    break
        if interrupts.received is not None:  # received during the last hooks
            interrupts.leave(interrupts.received, number, hooks)
    return cast(State, calls.state)


def _check_hooks(hooks: Sequence[Hook], log_every: int, steps_per_call: int) -> None:
    if log_every < 1 or steps_per_call < 1:
        raise UsageError(f"expected log_every and steps_per_call of at least 1, got {log_every} and {steps_per_call}")
    for hook in hooks:
        every = getattr(hook, "every", None)
        if not callable(hook) or isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise UsageError(
                "expected hooks that can be called and have an integer `every` of at least 1, "
                f"got {type(hook).__name__} with every = {every!r}"
            )


def _must_wait() -> bool:
    # Several CPU "devices" share one thread pool, in which the collectives of two concurrent steps can deadlock.
    return jax.default_backend() == "cpu" and jax.local_device_count() > 1


def _next_batch(batches: Iterator[Any], number: int, start: int, steps: int) -> Any:
    try:
        return next(batches)
    except StopIteration:
        raise UsageError(
            f"the data ended after {number - 1 - start} batches, but {steps - start} were needed to reach "
            f"step {steps}; repeat the data (endless epochs), or ask for fewer steps"
        ) from None
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):  # Grain's message for a dead worker
            raise
        raise RunFailed(
            f"a process that prepares the data died before step {number} ({str(error).split('.')[0]}), perhaps "
            "because memory ran out; what was saved is intact: use fewer workers and run the same command again"
        ) from error


def _check_finite(number: int, metrics: Metrics, names: Sequence[str], hooks: Sequence[Hook]) -> None:
    """Raises unless the named metrics are finite."""
    # Only the sums are checked, because this runs at every step: a mean with weight is finite if its sum is.
    broken = [name for name in names if name in metrics and not math.isfinite(float(metrics[name][0]))]
    if not broken:
        return
    terms = ", ".join(f"{name} = {value:.6g}" for name, value in _loss_first(metrics).items())
    raise RunFailed(
        f"{' and '.join(broken)} not finite at step {number} ({terms}); {last_good(hooks)}; "
        "try a lower learning rate, gradient clipping, or look at that batch"
    )


def _refuse(number: int, bad: Sequence[str], hooks: Sequence[Hook]) -> RunFailed:
    return RunFailed(
        f"{not_finite(bad, number)}, though its loss and gradient were; {last_good(hooks)}; "
        "try a lower learning rate or clipping"
    )


def _fit_to_save(
    number: int, state: Any, hooks: Sequence[Hook], last: bool, interrupted: bool, bad_steps: BadSteps | None
) -> tuple[Any, str]:
    """The state to continue with, and the reason not to save it before the end (empty if it may be saved).

    If a regular save is due and the state is not finite, training returns to a checkpoint. If only an interruption
    would save it, the state is kept: the run returns to a checkpoint at its next regular save, interrupted or not.
    """
    if bad_steps is not None and bad_steps.consecutive and not last:
        return state, "its numbers, or numbers of the steps before it, were bad"
    regular = any(_saves(hook) and number % hook.every == 0 for hook in hooks)
    out_of_turn = interrupted and any(map(_saves, hooks))
    if not (last or regular or out_of_turn) or not (bad := find_nonfinite(state)):
        return state, ""
    if last or bad_steps is None:
        raise _refuse(number, bad, hooks)
    return (bad_steps.roll_back(number, state, hooks, bad), "") if regular else (state, not_finite(bad, number))


def _loss_first(metrics: Metrics) -> dict[str, float]:
    return dict(sorted(means(metrics).items(), key=lambda item: item[0] != "loss"))


def _call_hooks(
    hooks: Sequence[Hook],
    number: int,
    state: Any,
    metrics: dict[str, float],
    last: bool,
    interrupted: bool,
    unfit: str,
) -> bool:
    """Calls the hooks that are due; returns whether the training ends here.

    If a hook stops the training, this step is the last one and the other hooks are called too. An interruption calls
    only the saving hooks out of turn: an extra line of metrics would differ from an uninterrupted run. An unfit state
    is not saved before the end.
    """
    called: set[int] = set()

    def call(wanted: Callable[[Any], bool]) -> bool:
        stopped = False
        for index, hook in enumerate(hooks):
            if index not in called and wanted(hook):
                called.add(index)
                try:
                    hook(number, state, metrics)
                except StopTraining as stop:
                    stopped = True
                    say(f"training ends after step {number}: {stop}")
        return stopped

    def due(hook: Any) -> bool:
        return last or number % hook.every == 0

    ends = call(lambda hook: due(hook) and not _saves(hook)) or last
    if ends:
        call(lambda hook: not _saves(hook))
    if ends and not last and (bad := find_nonfinite(state)):
        raise _refuse(number, bad, hooks)
    return call(lambda hook: _saves(hook) and (ends or (not unfit and (interrupted or due(hook))))) or ends


def _saves(hook: Any) -> bool:
    return bool(getattr(hook, "saves", False))


class _Interrupts:
    """Defers SIGTERM and Ctrl-C to the end of the step; a second one acts immediately."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Interrupts:
        # Several processes must end after the same step, so JAX handles SIGTERM for them, see
        # `train.devices.processes`.
        alone = jax.process_count() == 1
        if alone and threading.current_thread() is threading.main_thread():  # only there can Python handle signals
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _receive(self, number: int, frame: object) -> None:
        self.received = number
        self.__exit__()
        say("finishing this step, then saving; once more to leave at once")

    @staticmethod
    def leave(received: int, number: int, hooks: Sequence[Hook], unfit: str = "") -> None:
        """Prints what was saved and exits with the shell's code for the signal, 128 + its number."""
        step, place = last_save(hooks) or (None, "")
        why = f" ({unfit})" if unfit else ""
        told = f"nothing was saved{why}"
        if step == number:
            told = f"saved {place}; the same command continues from there"
        elif step is not None:
            told = f"this step was not saved{why}; the same command continues from {place}"
        say(f"stopped by {signal.Signals(received).name} after step {number}: {told}")
        raise SystemExit(128 + received)
