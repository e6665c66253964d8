"""Training of one model: wraps, resumes, measures and profiles the step in the right order.

    recipe = Recipe(make_objective(model), {"mlm": 1.0})
    fitted = fit_model(recipe, Start(params, seed), batches, training=config.training, folder=run.folder(seed=seed))

A recipe is compiled once for all runs of a study that use it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.models.transformer import SHARDING_RULES
from experiments.study.cli import print_results
from experiments.study.config import TrainingConfig
from experiments.study.saved import read_state, write_state
from experiments.study.workdir import Folder, Measured
from train.devices.cost import count_flops, measure
from train.devices.memory import OutOfMemory
from train.devices.profiling import profiled
from train.devices.sharding import gather, shard_state
from train.errors import RunFailed, UsageError
from train.files import make_folder, to_json
from train.guard import BadSteps, skip_nonfinite
from train.hooks import EarlyStopping, Hook, run_evaluation
from train.loop import fit
from train.metrics import means, weighted_loss
from train.objective import Objective
from train.objectives.precision import Precision, make_precision
from train.optimizers import evaluation_params, make_optimizer
from train.parallel import data_parallel
from train.records.checkpoint import Checkpointer
from train.records.metrics_log import MetricsWriter
from train.records.tensorboard import TensorBoard
from train.state import TrainState, create_state
from train.step import build_eval_step, build_train_step

Rate = float | Callable[[Any], Any]
Batches = Iterator[Any] | Callable[[TrainState], Any]
FINAL = "final.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """Objective and optimizer of a method. Create it once per method, so that it is compiled once for all runs.

    Args:
        objective: `(params, batch, ctx) -> terms`.
        loss_weights: The weights of the trained terms: numbers, or schedules of the step.
        optimizer: Replaces the optimizer of the config, for pruning or task weighting.
        task_gradients: Whether that optimizer combines the gradients of all terms.
        teacher_decay: Decay of `ctx.ema`, a number or a schedule, if a parameter average is the teacher.
        cast: Whether `--precision` casts parameters and batches, for models without a dtype option.
        split: Option and value that split a batch, for the out-of-memory message; `--accumulate` by default.
    """

    objective: Objective
    loss_weights: Mapping[str, Rate]
    optimizer: optax.GradientTransformation | None = None
    task_gradients: bool = False
    teacher_decay: Rate | None = None
    cast: bool = False
    split: tuple[str, int] | None = None


@dataclasses.dataclass(frozen=True)
class Start:
    """Start of a run. `params` may be a function, for parameters that fit only on a mesh."""

    params: Any
    seed: int | jax.Array
    frozen: Any = None
    state: Any = None


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained model: parameters to evaluate, their average (such as a teacher), full state, and evaluation."""

    params: Any
    ema: Any
    state: TrainState
    sums: Callable[[Iterable[Any]], dict[str, tuple[Any, Any]]]
    """Maps batches to the terms of the objective, each as `(sum, weight)`."""
    loss_weights: Mapping[str, Rate]

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Returns the mean of each term over all batches, and the weighted total as "loss"."""
        sums, step = self.sums(batches), self.state.step
        rates = {name: float(rate(step) if callable(rate) else rate) for name, rate in self.loss_weights.items()}
        return means(sums) | {"loss": weighted_loss(sums, rates)}


Validation = Iterable[Any] | Callable[[Fitted], Mapping[str, float]]


class Compiled(NamedTuple):
    """The compiled steps of a recipe with one config."""

    optimizer: optax.GradientTransformation
    precision: Precision
    train: Any
    evaluate: Any
    mesh: Mesh | None


_COMPILED: weakref.WeakKeyDictionary[Recipe, dict[str, Compiled]] = weakref.WeakKeyDictionary()


def compiled(recipe: Recipe, training: TrainingConfig, mesh_config: Any) -> Compiled:
    """Returns the compiled steps of a recipe, cached by recipe and config."""
    made = _COMPILED.setdefault(recipe, {})
    key = json.dumps([to_json(training, nonfinite=str), to_json(mesh_config)])
    if key not in made:
        made[key] = _build(recipe, training, mesh_config.make() if mesh_config is not None else None)
    return made[key]


def _build(recipe: Recipe, training: TrainingConfig, mesh: Mesh | None) -> Compiled:
    if recipe.teacher_decay is not None and training.ema_decay is not None:
        raise UsageError("this method already averages the parameters, for its teacher: remove --ema-decay")
    precision = make_precision(training.precision)
    objective = precision.wrap(recipe.objective, cast=recipe.cast)
    optimizer = recipe.optimizer or make_optimizer(training.optimizer, training.steps)
    body = build_train_step(
        objective,
        optimizer,
        loss_weights=recipe.loss_weights,
        accumulate=training.accumulate,
        ema_decay=training.ema_decay if recipe.teacher_decay is None else recipe.teacher_decay,
        task_gradients=recipe.task_gradients,
        checks=training.checks,
    )
    place: dict[str, Any] = {"mesh": mesh}
    if training.devices is not None:
        there = jax.local_devices()  # with several processes, each trains the same model separately
        if training.devices > len(there):
            raise UsageError(f"--devices is {training.devices}, but there are {len(there)}")
        place["devices"] = there[: training.devices]
    evaluate = build_eval_step(objective, use_ema=training.ema_decay is not None)
    return Compiled(
        optimizer,
        precision,
        data_parallel(precision.scaled(skip_nonfinite(body)), training.backend, **place),
        data_parallel(evaluate, training.backend, **place),
        mesh,
    )


def count_operations(recipe: Recipe, start: Start, batch: Any, training: TrainingConfig) -> int:
    """Floating-point operations of the products of one training step, for comparisons at equal compute.

    Args:
        recipe: Objective and optimizer.
        start: Parameters, which are only traced if they are a function.
        batch: A batch.
        training: Options of the training.
    """
    steps = compiled(recipe, training, None)

    def state() -> TrainState:
        params = start.params() if callable(start.params) else start.params
        scale = steps.precision.loss_scale()
        return create_state(params, steps.optimizer, key=0, frozen=start.frozen, state=start.state, loss_scale=scale)

    return count_flops(steps.train.step, jax.eval_shape(state), batch)


def fit_model(
    recipe: Recipe,
    start: Start,
    batches: Batches,
    *,
    training: TrainingConfig,
    folder: Folder,
    validation: Validation | None = None,
) -> Fitted:
    """Trains one model, or resumes from its latest checkpoint; a finished model is returned at once.

    Args:
        recipe: Objective and optimizer.
        start: Parameters, seed, and other inputs of the objective.
        batches: An iterator; checkpoints need `get_state` and `set_state`. Or, for on-policy learning, a function of
            the state that uses only `state.key` and `state.step` as random seed, so that it resumes exactly.
        training: Options of the training.
        folder: From `run.folder(...)`, for `metrics.jsonl`, `metrics.csv`, checkpoints or the final state.
        validation: Batches to evaluate on, or a function of the `Fitted` that returns metrics by name; evaluated every
            `training.eval_every` steps.

    Returns:
        The model after the last step, or with `training.patience` the best one; in a dry run after a few steps.
    """
    steps = compiled(recipe, training, getattr(folder.config, "mesh", None))

    def initial_state() -> TrainState:
        return create_state(
            start.params() if callable(start.params) else start.params,
            steps.optimizer,
            key=start.seed,
            ema=training.ema_decay is not None or recipe.teacher_decay is not None,
            frozen=start.frozen,
            state=start.state,
            loss_scale=steps.precision.loss_scale(),
        )

    def fitted(state: TrainState) -> Fitted:
        pair = state.ema if training.ema_decay is not None else evaluation_params(state), state.ema
        params, ema = pair if steps.mesh is None else gather(pair)
        return Fitted(params, ema, state, lambda data: run_evaluation(steps.evaluate, state, data), recipe.loss_weights)

    def values(state: TrainState) -> Mapping[str, float]:
        return validation(fitted(state)) if callable(validation) else fitted(state).evaluate(validation or ())

    state = initial_state() if steps.mesh is None else shard_state(initial_state, steps.mesh, SHARDING_RULES)
    if folder.config.dry_run:
        return fitted(_dry_run(state, steps.train, batches, training.steps, folder))
    final = read_state(folder.path / FINAL, state)
    if final is None:
        judge = None if validation is None else values
        try:
            final = _train(state, steps.train, batches, training=training, folder=folder, judge=judge)
        except OutOfMemory as error:
            option, error.parts = recipe.split or ("--accumulate", training.accumulate)
            raise RunFailed(error.sentence(f"{option} ", "--batch-size ")) from error
    return fitted(final)


def _train(
    state: TrainState,
    step: Any,
    batches: Batches,
    *,
    training: TrainingConfig,
    folder: Folder,
    judge: Callable[[TrainState], Mapping[str, float]] | None,
) -> TrainState:
    """Runs the loop with its hooks; returns the last state, or the best one."""
    make_folder(folder.path, "the folder of a run")
    options = folder.config
    with MetricsWriter(folder.path, every=training.log_every) as writer, contextlib.ExitStack() as stack:
        bad_steps = BadSteps(max_consecutive_bad=options.max_consecutive_bad, writer=writer)
        hooks: list[Hook] = [writer]
        extras: dict[str, Any] = {"bad_steps": bad_steps}
        stopping = checkpoints = None
        if judge is not None:
            hooks.append(_Judge(training.eval_every, judge, writer))
        if training.patience is not None:
            stopping = extras["early_stopping"] = _stopping(hooks[-1], training)
            hooks.append(stopping)
        if training.checkpoint_every is not None:
            checkpoints = Checkpointer(
                folder.path / "checkpoints",
                every=training.checkpoint_every,
                keep=2,
                iterator=None if callable(batches) else batches,
                extras=extras,
                best=stopping,
                allow_changed=options.allowed_names,
            )
            hooks.append(stack.enter_context(checkpoints))
            state = checkpoints.restore_latest(state) or state
        first = int(np.asarray(state.step))
        writer.truncate_after(first)
        if options.tensorboard:
            writer.also.append(TensorBoard(folder.path / "tensorboard", after=first))
        if options.profile is not None:
            step = stack.enter_context(profiled(step, folder.path / "profile", *options.profile))
        data: Any = batches
        if callable(batches):
            step, data = _on_policy(step, batches), itertools.repeat(None)
        calls = 1 if callable(batches) or options.profile else training.steps_per_call
        shown: dict[str, Any] = {
            "steps_per_call": calls,
            "log_every": training.log_every,
            "label": folder.label,
            "progress": folder.label != "",
        }
        state = fit(state, step, data, steps=training.steps, hooks=hooks, bad_steps=bad_steps, **shown)
        if checkpoints is None and training.keep_final:
            write_state(folder.path / FINAL, state)
        best = checkpoints.read_best(state) if checkpoints is not None and stopping is not None else None
        return state if best is None else best


class _Judge:
    """Hook that evaluates and logs; early stopping reads its values."""

    def __init__(self, every: int, values: Callable[[TrainState], Mapping[str, float]], writer: MetricsWriter) -> None:
        self.every, self._values, self._writer = every, values, writer
        self.latest: dict[str, float] = {}
        self.latest_step: int | None = None

    def __call__(self, step: int, state: TrainState, metrics: Mapping[str, float]) -> None:
        self.latest = {name: float(value) for name, value in self._values(state).items()}
        self.latest_step = step
        self._writer.write(step, "validation", self.latest)


def _stopping(judge: Any, training: TrainingConfig) -> EarlyStopping:
    """Returns early stopping on a metric; checkpoints must be saved at its evaluations, to keep the best one."""
    if not isinstance(judge, _Judge):
        raise UsageError("--patience needs an evaluation on validation data, which this training does not have")
    every, saves = training.eval_every, training.checkpoint_every
    if saves is None or every % saves:
        raise UsageError(
            f"--patience keeps the best checkpoint, so the steps between two evaluations ({every}) must be a multiple "
            f"of those between two checkpoints ({saves}); change --checkpoint-every"
        )
    source: Any = judge
    metric, mode = training.patience_metric, training.patience_mode
    return EarlyStopping(metric, patience=training.patience, every=every, source=source, mode=mode)


def _on_policy(step: Any, batches: Callable[[TrainState], Any]) -> Any:
    """Returns a step that generates its own batch. It reads the old state before the step reuses its memory."""

    def on_policy(state: TrainState, _: Any) -> Any:
        return step(state, batches(state))

    return on_policy


def _dry_run(state: TrainState, step: Any, batches: Batches, steps: int, folder: Folder) -> TrainState:
    """Prints the cost of a step and ends this dry run; a second call returns the state after a few steps."""
    if folder.path in folder.measured:
        found: TrainState = folder.measured[folder.path]
        return found
    data = itertools.repeat(batches(state)) if callable(batches) else batches
    state, cost = measure(state, step, data)
    folder.measured[folder.path] = state
    lines = [f"  {name:<21}  {value}" for name, value in cost.lines(steps)]
    print_results("\n".join([f"a training step of {folder.path.name}:", *lines]))
    raise Measured(cost.seconds * steps + cost.first_seconds)
