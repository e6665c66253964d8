"""Options of every study and of a training, and which of them identify a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_type_hints

import tyro

from train.errors import UsageError
from train.files import to_json
from train.objectives.precision import PrecisionName
from train.optimizers import OptimizerConfig

T = TypeVar("T")
C = TypeVar("C")
OF_THE_CALL = ("workdir", "allow_changed", "dry_run", "profile", "tensorboard", "jobs", "debug_nans", "print_config")
"""Options that do not change results; they may differ when a run is resumed."""
NESTED_OF_THE_CALL = ("data.skip_budget", "mesh", "processes")


def axis(default: T) -> T:
    """Declares a field that lists runs, such as seeds or methods, or selects what is shown.

    It changes no result, so a study can be resumed with another value: `--seeds 5` after `--seeds 3` adds two runs.
    """
    return dataclasses.field(default=default, metadata={"axis": True})


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Training of a model."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer."""
    steps: int = 500
    """Updates."""
    batch_size: int = 16
    """Examples in a batch, over all devices."""
    accumulate: int = 1
    """Number of micro-batches per batch; affects memory, not the result."""
    backend: Literal["jit", "pmap", "shard_map"] = "jit"
    """Parallelisation over the devices; a mesh needs jit."""
    devices: int | None = None
    """Number of devices used (None: all)."""
    precision: PrecisionName = "float32"
    """Input dtype of matrix products; the rest is float32. float16 uses loss scaling."""
    checks: bool = False
    """Check losses, weights and gradients inside the compiled step."""
    log_every: int = 50
    """Steps between two log lines."""
    eval_every: int = 100
    """Steps between two evaluations on validation data."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints (None: only the final state, for very short training)."""
    steps_per_call: int = 1
    """Number of steps per call to the device, for very fast steps."""
    keep_final: bool = True
    """Whether a training without checkpoints keeps its last state."""
    patience: int | None = None
    """Number of evaluations without improvement of `patience_metric` before training stops; the best checkpoint is then
    used (None: no early stopping, the last state is used)."""
    patience_metric: str = "loss"
    """Validation metric for early stopping."""
    patience_mode: Literal["min", "max"] = "min"
    """Whether a lower or a higher value of that metric is better."""
    ema_decay: float | None = None
    """Decay of the moving average of the parameters, which is then evaluated (None: no average)."""

    def __post_init__(self) -> None:
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise UsageError(f"--ema-decay must be at least 0 and below 1, but it is {self.ema_decay}")


def check_known(option: str, values: Sequence[str], known: Iterable[str]) -> None:
    """Refuses unknown names in an option.

    >>> check_known("--losses", ["MSA"], ["MSE", "MAE"])
    Traceback (most recent call last):
    train.errors.UsageError: --losses may be MSE, MAE, but one of them is 'MSA'
    """
    for value in values:
        if value not in known:
            raise UsageError(f"{option} may be {', '.join(known)}, but one of them is {value!r}")


def check_shares(option: str, values: Sequence[float]) -> None:
    """Refuses values that are not a share of examples.

    >>> check_shares("--shares", [0.2, 1.5])
    Traceback (most recent call last):
    train.errors.UsageError: --shares must be at least 0 and below 1, got 1.5
    """
    for value in values:
        if not 0 <= value < 1:
            raise UsageError(f"{option} must be at least 0 and below 1, got {value:g}")


Training = Annotated[TrainingConfig, tyro.conf.arg(name="")]
"""Type of the field `training`: its options have no prefix. A second training uses a plain TrainingConfig."""


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Options of every study."""

    seed: int = 0
    """Random seed; a study with several seeds counts up from it."""
    workdir: str | None = None
    """Folder of the study, resumed if it exists (default: runs/NAME, or runs/NAME-fast with --fast-dev-run)."""
    jobs: int = 1
    """Number of processes that share the runs of the study."""
    max_consecutive_bad: int = 10
    """Updates with a non-finite loss or gradient are skipped. After this many in a row, training returns to the last
    checkpoint, with fresh data."""
    fast_dev_run: bool = False
    """Run all code on little data for a few steps, as a smoke test; the numbers are not meaningful."""
    allow_changed: str = ""
    """Comma-separated names that may change when a run is resumed: any option, data, dtype, x64. A finished run is
    repeated with the new values."""
    dry_run: bool = False
    """Print parameters, operations, memory and time of a training step of each method, then exit without writing."""
    print_config: bool = False
    """Print the values of all options, then exit."""
    debug_nans: bool = False
    """Stop at the operation with the first NaN (slow)."""
    profile: tuple[int, int] | None = None
    """First and last update to trace by jax.profiler, into the folder `profile` of each training."""
    tensorboard: bool = False
    """Also log for TensorBoard (needs the extra `tensorboard`)."""

    def fast(self) -> Self:
        """Returns the defaults for `--fast-dev-run`; other options on the command line override them."""
        return self

    @property
    def allowed_names(self) -> tuple[str, ...]:
        """The names in `allow_changed`, with hyphens replaced by underscores."""
        return tuple(name.strip().replace("-", "_") for name in self.allow_changed.split(",") if name.strip())


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Yields name, field and value of every leaf option, with the names of the command line.

    >>> [name for name, _, _ in fields(StudyConfig())][:3]
    ['seed', 'workdir', 'jobs']
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, prefix if hints[field.name] == Training else f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field, value


def settings(config: Any) -> dict[str, Any]:
    """Returns all options that identify a folder, by dotted name."""
    return {name: to_json(value, nonfinite=str) for name, _, value in fields(config) if not _of_the_call(name)}


def axes(config: Any) -> set[str]:
    """Returns the dotted names of the fields that only list runs."""
    return {name for name, field, _ in fields(config) if field.metadata.get("axis")}


def _of_the_call(name: str) -> bool:
    return name in OF_THE_CALL or any(f"{name}.".startswith(f"{group}.") for group in NESTED_OF_THE_CALL)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Converts dotted names to nested objects.

    >>> nested({"seed": 0, "data.name": "digits"})
    {'seed': 0, 'data': {'name': 'digits'}}
    """
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return tree


def from_settings(kind: type[C], values: Mapping[str, Any]) -> C:
    """Inverts `nested(settings(config))`; options that are not part of it get their defaults.

    Raises:
        UsageError: A name is no option of this config.
    """
    hints = get_type_hints(kind, include_extras=True)
    left, given = dict(values), {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        annotation = hints[field.name]
        inner = get_args(annotation)[0] if annotation == Training else annotation
        if annotation == Training:
            names = {f.name for f in dataclasses.fields(inner)} & {*left}
            given[field.name] = from_settings(inner, {name: left.pop(name) for name in names})
        elif field.name in left:
            value = left.pop(field.name)
            is_group = isinstance(inner, type) and dataclasses.is_dataclass(inner)
            given[field.name] = from_settings(inner, value) if is_group else _tuples(value)
    if left:
        raise UsageError(
            f"{kind.__name__} has no option {', '.join(map(repr, left))}: this folder was written by another version"
        )
    return kind(**given)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def command_line(config: StudyConfig, name: str) -> list[str]:
    """Returns the command for this config: `python -m experiments.NAME` and every option that is not the default.

    >>> command_line(StudyConfig(seed=3), "toy_classifier")
    ['python', '-m', 'experiments.toy_classifier', '--seed', '3']
    """
    usual = type(config)()
    words = ["python", "-m", f"experiments.{name}"]
    if config.fast_dev_run:
        usual = dataclasses.replace(usual.fast(), fast_dev_run=True)
        words.append("--fast-dev-run")
    before = {option: value for option, _, value in fields(usual)}
    for option, _, value in fields(config):
        if option in before and value == before[option]:
            continue
        flag = option.replace("_", "-")
        if isinstance(value, bool):
            group, _, last = flag.rpartition(".")
            words.append(f"--{flag}" if value else f"--{group}.no-{last}" if group else f"--no-{last}")
        elif isinstance(value, Mapping):
            words += [f"--{flag}", *_words(value)]
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(str, value)]
        else:
            words += [f"--{flag}", str(value)]
    return words


def _words(value: Any) -> Iterator[str]:
    """Yields keys and values of a nested mapping in command-line form.

    >>> list(_words({"embed": {"rate_factor": 0.1, "b1": 0.8}, "head": {"name": "sgd"}}))
    ['embed', 'rate_factor', '0.1', 'b1', '0.8', 'head', 'name', 'sgd']
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _words(inner)
    else:
        yield str(value)
