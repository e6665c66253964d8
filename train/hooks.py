"""Hooks for `fit`: evaluation on held-out data and early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

from train.devices.memory import MemoryErrors
from train.errors import UsageError, check_count
from train.metrics import accumulate, means, weighted_loss
from train.records.metrics_log import MetricsWriter


class Hook(Protocol):
    """A callable that `fit` calls with `(step, state, metrics)` when `every` divides the step, and at the last step.

    `step` counts the finished steps, `state` is the state after them, `metrics` are that step's means. A hook with an
    attribute `saves = True` (a checkpointer) runs after the others, and also when the run is interrupted. A hook must
    not keep `state`: the next step reuses its memory.
    """

    every: int

    def __call__(self, step: int, state: Any, metrics: dict[str, float], /) -> None:
        """Does its work."""


def last_save(hooks: Sequence[Hook]) -> tuple[int, str] | None:
    """Step and location of the last good checkpoint of a saving hook, or None."""
    for hook in hooks:
        step = getattr(hook, "latest_step", None) if getattr(hook, "saves", False) else None
        if step is not None:
            return step, f"step {step} in {getattr(hook, 'directory', '?')}"
    return None


def last_good(hooks: Sequence[Hook]) -> str:
    """The last good checkpoint, in words."""
    saved = last_save(hooks)
    return f"the last good checkpoint is {saved[1]}" if saved else "no checkpoint was saved before"


class StopTraining(Exception):
    """Raised by a hook to end the training after this step; `fit` then returns as at the last step."""


def run_evaluation(
    step: Callable[[Any, Any], Mapping[str, tuple[Any, Any]]], state: Any, batches: Iterable[Any]
) -> dict[str, tuple[Any, Any]]:
    """Sums of all terms over all batches, to be divided once.

    Args:
        step: `(state, batch) -> {name: (sum, weight)}`, as `build_eval_step` makes it.
        state: The state to evaluate.
        batches: At least one batch.

    Returns:
        `{name: (sum, weight)}` over all batches: each example counts once, also in a smaller last batch.
    """
    total: Any = None
    with MemoryErrors(step) as memory:
        for batch in batches:
            memory.expect(state, batch)
            total = accumulate(total, step(state, batch))
    if total is None:
        raise UsageError("expected at least one batch to evaluate on, got none; use a smaller batch or more data")
    return dict(total)


class Evaluate:
    """A hook that evaluates the state on held-out data.

    Args:
        step: The step from `build_eval_step`.
        batches: Called for a fresh pass over the data at each evaluation.
        every: Steps between two evaluations.
        writer: Writes the means under the name of the split.
        split: Name of the data split.
        loss_weights: As in training. If given, the weighted total over the data is reported as "loss".
        derive: Computes further metrics from the sums, such as F1 from counts: `{name: (sum, weight)} -> {name:
            value}`.

    Attributes:
        latest: The means of the last evaluation, by name.
        latest_step: The step of the last evaluation, or None.
    """

    def __init__(
        self,
        step: Callable[[Any, Any], Mapping[str, tuple[Any, Any]]],
        batches: Callable[[], Iterable[Any]],
        *,
        every: int,
        writer: MetricsWriter | None = None,
        split: str = "validation",
        loss_weights: Mapping[str, float | Callable[[Any], Any]] | None = None,
        derive: Callable[[dict[str, tuple[Any, Any]]], Mapping[str, float]] | None = None,
    ) -> None:
        self.every, self.split = check_count("every", every), split
        self.latest: dict[str, float] = {}
        self.latest_step: int | None = None
        self._step, self._batches, self._writer = step, batches, writer
        self._loss_weights, self._derive = loss_weights, derive

    def __call__(self, step: int, state: Any, metrics: Mapping[str, float]) -> None:
        """Evaluates the state and writes the means."""
        sums = run_evaluation(self._step, state, self._batches())
        if sums.pop("loss", None) is not None and self._loss_weights is None:
            raise UsageError(
                "the mean of the batches' losses is not the loss of the data; give the loss_weights to Evaluate, not "
                "to the evaluation step"
            )
        self.latest = means(sums)
        if self._loss_weights is not None:
            rates = {name: float(w(step) if callable(w) else w) for name, w in self._loss_weights.items()}
            self.latest["loss"] = weighted_loss(sums, rates)
        if self._derive is not None:
            self.latest |= {name: float(value) for name, value in self._derive(sums).items()}
        self.latest_step = step
        if self._writer is not None:
            self._writer.write(step, self.split, self.latest)


class EarlyStopping:
    """A hook that ends the training when a metric has stopped improving, and records the best step.

    Give it to the `Checkpointer` in `extras`: its state is then saved, and a resumed run stops at the same step as an
    uninterrupted one. Given as `best`, it also determines which checkpoint is kept in addition to the latest.

    Args:
        metric: The name of the metric.
        patience: Number of consecutive checks without improvement after which the training ends. None: never.
        every: Steps between two checks.
        source: The `Evaluate` hook that computes the metric; it comes before this hook and runs at the same steps.
            None: the training metrics.
        mode: "min" if smaller is better, else "max".
        min_delta: Minimum improvement that counts.

    Attributes:
        best: The best value so far.
        best_step: The step of the best value, or None.
        stopped: Whether this hook ended the training.
    """

    def __init__(
        self,
        metric: str,
        *,
        patience: int | None,
        every: int,
        source: Evaluate | None = None,
        mode: Literal["min", "max"] = "min",
        min_delta: float = 0.0,
    ) -> None:
        if mode not in ("min", "max") or min_delta < 0:
            raise UsageError(
                f'expected mode "min" or "max" and a min_delta of at least 0, got {mode!r} and {min_delta}'
            )
        self.metric, self.mode, self.min_delta = metric, mode, min_delta
        self.patience = None if patience is None else check_count("patience", patience)
        self.every = check_count("every", every)
        self.best: float | None = None
        self.best_step: int | None = None
        self.waited = 0
        self.stopped = False
        self._source = source

    def __call__(self, step: int, state: Any, metrics: Mapping[str, float]) -> None:
        """Performs one check; raises `StopTraining` when patience is exhausted."""
        if self._source is not None:
            if self._source.latest_step != step:
                raise UsageError(
                    f"early stopping at step {step} found the evaluation of step {self._source.latest_step}; "
                    "put the Evaluate hook before it, with the same `every`"
                )
            metrics = self._source.latest
        if self.metric not in metrics:
            raise UsageError(f"expected a metric among {', '.join(sorted(metrics))}, got {self.metric!r}")
        value = metrics[self.metric]
        sign = 1 if self.mode == "min" else -1
        better = self.best is None or sign * value < sign * self.best - self.min_delta
        if better and not math.isnan(value):
            self.best, self.best_step, self.waited = value, step, 0
        else:
            self.waited += 1
        if self.patience is not None and self.waited >= self.patience:
            self.stopped = True
            raise StopTraining(f"{self.metric} has not improved on {self.best} for {self.waited} checks")

    def get_state(self) -> dict[str, Any]:
        """The state that a resumed run restores."""
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited, "stopped": self.stopped}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores a state from `get_state`."""
        self.best, self.best_step = state["best"], state["best_step"]
        self.waited, self.stopped = state["waited"], state["stopped"]
