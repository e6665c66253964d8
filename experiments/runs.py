"""Studies of many runs: each is trained or taken up where it stopped, and a result that is there is not computed again.

    results = run_all(workdir / "results.json", grid, one_run, label="classifiers")

A run is named by its settings, such as `{"labels": "random", "seed": 0}`, and gives numbers. `train_run` trains one
that is long enough to be interrupted.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from experiments import cli
from train.checkpoint import Checkpointer
from train.cost import measure
from train.errors import RunFailed, UsageError
from train.files import dump_json, make_folder, read_json, to_json, write_atomic
from train.guard import BadSteps
from train.hooks import EarlyStopping, Evaluate, Hook
from train.logging import MetricsWriter, curve, read_metrics
from train.loop import fit
from train.memory import OutOfMemory
from train.processes import wait_for_all
from train.profiling import profiled
from train.progress import Progress
from train.tensorboard import TensorBoard

State = TypeVar("State")
Result = dict[str, Any]
DEFAULT = cli.StudyConfig()


def product(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """All combinations of settings, the last one varying fastest.

    >>> product(labels=["random"], seed=range(2))
    [{'labels': 'random', 'seed': 0}, {'labels': 'random', 'seed': 1}]
    """
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def run_all(
    path: Path,
    grid: Sequence[Mapping[str, Any]],
    run: Callable[..., Mapping[str, float]],
    *,
    label: str = "",
    progress: bool = True,
) -> list[Result]:
    """Makes every run whose result is not in the file yet, and keeps the results there.

    Args:
        path: A JSON file in the run's folder.
        grid: The settings of each run, of JSON types.
        run: Called with the settings; what it returns joins them in the result.
        label: What the progress calls the runs.
        progress: Whether to show it; not where the runs show their own.

    Returns:
        The results in the order of the grid.

    Raises:
        UsageError: The file cannot be read.
    """
    found = _read_results(path)
    wait_for_all("results read")  # before process 0 writes more of them
    results: list[Result] = []
    with Progress(len(grid), label=label, enabled=progress) as shown:
        for number, settings in enumerate(grid, 1):
            old = [r for r in found if all(r.get(name) == value for name, value in settings.items())]
            results.append(old[0] if old else dict(settings) | to_json(dict(run(**settings))))
            if not old:
                write_atomic(path, dump_json(results))
            shown.update(number)
    return results


def _read_results(path: Path) -> list[Result]:
    try:
        found = read_json(path)
        if not isinstance(found, list) or not all(isinstance(result, dict) for result in found):
            raise ValueError("expected a list of objects")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is damaged ({error}); delete it, and its runs are made again") from error
    return found


def values_of(results: Sequence[Result], metric: str, **settings: Any) -> list[float]:
    """One metric of all results with these settings.

    >>> values_of([{"seed": 0, "labels": "random", "accuracy": 0.5}], "accuracy", labels="random")
    [0.5]
    """
    chosen = [r for r in results if all(r.get(name) == value for name, value in settings.items())]
    for result in chosen:
        if result.get(metric) is None:
            raise UsageError(
                f"a result has no finite {metric!r} ({result!r:.100}); delete results.json in the workdir, and its "
                "runs are made again"
            )
    return [r[metric] for r in chosen]


def train_run(
    folder: Path,
    state: State,
    step: Callable[[State, Any], tuple[State, Any]],
    batches: Any,
    *,
    steps: int,
    checkpoint_every: int | None = None,
    log_every: int = 50,
    label: str = "",
    evaluate: Callable[[MetricsWriter], Evaluate] | None = None,
    options: cli.StudyConfig = DEFAULT,
    split: tuple[str, int] | None = None,
    data: str | None = None,
    stop: tuple[str, int | None] | None = None,
) -> State:
    """Trains one run in a folder of its own, or goes on from its latest checkpoint.

    Args:
        folder: Gets `metrics.jsonl`, `metrics.csv` and, if there are any, `checkpoints/`, `profile/`, `tensorboard/`.
        state: The state before the first step.
        step: The compiled train step.
        batches: The iterator of batches; to be checkpointed it needs `get_state` and `set_state`.
        steps: Updates at the end.
        checkpoint_every: Steps between two checkpoints. None saves none, for a run of seconds that starts anew.
        log_every: Steps between two lines of metrics.
        label: What the progress calls the run; no progress is shown without one.
        evaluate: Makes a hook that evaluates and writes to the given writer.
        options: The experiment's config: whether to measure only, to profile, to log for TensorBoard.
        split: The option that sets the number of micro-batches and its value, if there is one, to be named when memory
            is short.
        data: The fingerprint of the data (see `train.fingerprint`); a checkpoint of other data is refused.
        stop: A metric of the evaluation (less is better), and the number of evaluations without a better one after
            which the training ends. The best checkpoint is then kept and returned.

    Returns:
        The state after the last step, or the best one; in a dry run after a few, of which nothing is kept.
    """
    if options.dry_run:
        return _dry_run(state, step, batches, steps, label or "the run")
    make_folder(folder, "the folder of a run")
    with MetricsWriter(folder, every=log_every) as writer, contextlib.ExitStack() as stack:
        hooks: list[Hook] = [writer]
        bad_steps = BadSteps(max_consecutive_bad=options.max_consecutive_bad, writer=writer)
        extras: dict[str, Any] = {"bad_steps": bad_steps}
        if evaluate is not None:
            hooks.append(evaluate(writer))
        stopping = checkpoints = None
        metric, patience = stop or ("", None)
        if patience is not None:
            stopping = extras["early_stopping"] = _stopping(hooks[-1], metric, patience, checkpoint_every)
            hooks.append(stopping)
        if checkpoint_every is not None:
            checkpoints = Checkpointer(
                folder / "checkpoints",
                every=checkpoint_every,
                keep=2,
                iterator=batches,
                extras=extras,
                data=data,
                best=stopping,
                allow_changed=options.allowed_names,
            )
            hooks.append(stack.enter_context(checkpoints))
            state = checkpoints.restore_latest(state) or state
        start = int(np.asarray(getattr(state, "step")))  # noqa: B009 (State is any type here)
        writer.truncate_after(start)
        if options.tensorboard:
            writer.also.append(TensorBoard(folder / "tensorboard", after=start))
        if options.profile is not None:
            step = stack.enter_context(profiled(step, folder / "profile", *options.profile))
        shown: dict[str, Any] = {"log_every": log_every, "label": label, "progress": bool(label)}
        try:
            state = fit(state, step, batches, steps=steps, hooks=hooks, bad_steps=bad_steps, **shown)
        except OutOfMemory as error:
            option, error.parts = split or (None, 1)
            raise RunFailed(error.sentence(option and f"{option} ", "--batch-size ")) from error
        best = checkpoints.read_best(state) if checkpoints is not None and stopping is not None else None
        return state if best is None else best


def _dry_run(
    state: State, step: Callable[[State, Any], tuple[State, Any]], batches: Any, steps: int, label: str
) -> State:
    """Prints what a step costs; returns the state after a few."""
    state, cost = measure(state, step, batches)
    lines = [f"  {name:<21}  {value}" for name, value in cost.lines(steps)]
    cli.print_results("\n".join([f"a training step of {label}:", *lines]))
    return state


def _stopping(evaluation: Any, metric: str, patience: int, checkpoint_every: int | None) -> EarlyStopping:
    """Stops on a metric of an evaluation at whose steps checkpoints are saved, so that the best of them is there."""
    if checkpoint_every is None or evaluation.every % checkpoint_every:
        raise UsageError(
            f"--patience keeps the best checkpoint, so the steps between two evaluations ({evaluation.every}) must be "
            f"a multiple of those between two checkpoints ({checkpoint_every}); change --checkpoint-every"
        )
    return EarlyStopping(metric, patience=patience, every=evaluation.every, source=evaluation)


def gather_metrics(workdir: Path, folders: Mapping[str, Path]) -> None:
    """Writes the metrics of several runs to the study's own `metrics.jsonl` and `metrics.csv`.

    Args:
        workdir: The study's folder.
        folders: The folder of each run by the run's name; a split becomes "NAME/SPLIT".
    """
    write_atomic(workdir / "metrics.jsonl", "")
    with MetricsWriter(workdir) as writer:
        for name, folder in folders.items():
            for record in read_metrics(folder):
                writer.write(record["step"], f"{name}/{record['split']}", record["values"])


def mean_curves(
    folders: Sequence[Path], split: str, labels: Mapping[str, str]
) -> dict[str, tuple[list[int], list[float]]]:
    """Learning curves averaged over the runs that have a finite value there, as `plots.learning_curves` takes them.

    Args:
        folders: The runs' folders; all wrote at the same steps.
        split: "train", "validation", ...
        labels: What a curve is called, by the metric's name.

    Returns:
        `{label: (steps, values)}` of the metrics that the runs have.
    """
    records = [read_metrics(folder) for folder in folders]
    found = {label: [curve(record, split, metric) for record in records] for metric, label in labels.items()}
    means = {}
    for label, curves in found.items():
        at: dict[int, list[float]] = {}
        for step, value in (point for points in curves for point in zip(*points, strict=True)):
            at.setdefault(step, []).append(value)
        if at:
            means[label] = (sorted(at), [float(np.mean(at[step])) for step in sorted(at)])
    return means


def mean_and_spread_of(results: Sequence[Result], metric: str, **settings: Any) -> str:
    """Mean and sample standard deviation of a metric over the runs with these settings."""
    return cli.mean_and_spread(values_of(results, metric, **settings))
