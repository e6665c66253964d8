"""What a study can be told: the options of every study, those of a training, and which of them count."""

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
"""Options of a call: they change nothing that is computed, and may differ when a run is resumed."""
NESTED_OF_THE_CALL = ("data.skip_budget", "mesh", "processes")


def axis(default: T) -> T:
    """A field that lists runs, such as the number of seeds or the methods, or says what is shown of them.

    It changes no run's result. So a study is resumed with another value of it: `--seeds 5` after `--seeds 3` adds two.
    """
    return dataclasses.field(default=default, metadata={"axis": True})


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer."""
    steps: int = 500
    """Updates."""
    batch_size: int = 16
    """Examples in a batch, over all devices."""
    accumulate: int = 1
    """Micro-batches that a batch is processed in; changes the memory needed, not the result."""
    backend: Literal["jit", "pmap", "shard_map"] = "jit"
    """How a step is spread over the devices; a mesh needs jit."""
    devices: int | None = None
    """Number of devices used (None: all)."""
    precision: PrecisionName = "float32"
    """Type of what matrix products multiply; the rest is float32. With float16 gradients are scaled."""
    checks: bool = False
    """Check losses, weights and gradients inside the compiled step."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    eval_every: int = 100
    """Steps between two evaluations on validation data."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints (None: none before the end, for a training of seconds)."""
    steps_per_call: int = 1
    """Steps that the device makes in one call, for models whose step is shorter than a call."""
    keep_final: bool = True
    """Whether a training without checkpoints keeps its last state."""
    patience: int | None = None
    """Evaluations in a row without a better value of `patience_metric` after which the training ends and its best
    checkpoint is the one that counts (None: all steps are made and the last counts)."""
    patience_metric: str = "loss"
    """Validation metric that `patience` watches."""
    patience_mode: Literal["min", "max"] = "min"
    """Whether the smaller or the larger value of that metric is the better."""
    ema_decay: float | None = None
    """Decay of a moving average of the parameters, which is then what is evaluated (None: no average)."""

    def __post_init__(self) -> None:
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise UsageError(f"--ema-decay must be at least 0 and below 1, but it is {self.ema_decay}")


def check_known(option: str, values: Sequence[str], known: Iterable[str]) -> None:
    """Refuses a name that an option does not know.

    >>> check_known("--losses", ["MSA"], ["MSE", "MAE"])
    Traceback (most recent call last):
    train.errors.UsageError: --losses may be MSE, MAE, but one of them is 'MSA'
    """
    for value in values:
        if value not in known:
            raise UsageError(f"{option} may be {', '.join(known)}, but one of them is {value!r}")


Training = Annotated[TrainingConfig, tyro.conf.arg(name="")]
"""The type of a study's field `training`: its options have no prefix. A second training is a plain TrainingConfig."""


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What every study can be told."""

    seed: int = 0
    """Seed of everything random; a study of several seeds counts up from it."""
    workdir: str | None = None
    """Folder of the study, resumed if it exists (default: runs/NAME, or runs/NAME-fast with --fast-dev-run)."""
    jobs: int = 1
    """Processes that share the runs of the study."""
    max_consecutive_bad: int = 10
    """Updates with a loss or gradient that is not finite are skipped. After this many in a row training returns to the
    last checkpoint, with fresh data."""
    fast_dev_run: bool = False
    """Run the whole path on little data for a few steps, to see that it works; the numbers mean nothing."""
    allow_changed: str = ""
    """What may differ from the start of a run that is resumed, by name and with commas: any option, data, dtype, x64.
    A run that is finished is made again with the new values."""
    dry_run: bool = False
    """Print parameters, operations, memory and time of a training step of each method, then leave; writes nothing."""
    print_config: bool = False
    """Print all options as they are, then leave."""
    debug_nans: bool = False
    """Stop at the operation that gives the first NaN (slow)."""
    profile: tuple[int, int] | None = None
    """First and last update to trace by jax.profiler, into the folder `profile` of each training."""
    tensorboard: bool = False
    """Log for TensorBoard as well (needs the extra `tensorboard`)."""

    def fast(self) -> Self:
        """What `--fast-dev-run` starts from; an option that is given with it still counts."""
        return self

    @property
    def allowed_names(self) -> tuple[str, ...]:
        """The names in `allow_changed`; the command line's hyphens mean underscores."""
        return tuple(name.strip().replace("-", "_") for name in self.allow_changed.split(",") if name.strip())


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Name, field and value of every option that holds no further ones, with the names that the command line has.

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
    """All options that a run's folder is known by, by dotted name: those of the call are left out."""
    return {name: to_json(value, nonfinite=str) for name, _, value in fields(config) if not _of_the_call(name)}


def axes(config: Any) -> set[str]:
    """The dotted names of the fields that only list runs."""
    return {name for name, field, _ in fields(config) if field.metadata.get("axis")}


def _of_the_call(name: str) -> bool:
    return name in OF_THE_CALL or any(f"{name}.".startswith(f"{group}.") for group in NESTED_OF_THE_CALL)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as nested objects.

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
    """The config that `nested(settings(config))` was made of; options of the call have their defaults.

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
            f"{kind.__name__} has no option {', '.join(map(repr, left))}: this folder is of another version"
        )
    return kind(**given)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def command_line(config: StudyConfig, name: str) -> list[str]:
    """The words of a command that runs this config: `python -m experiments.NAME` and every option that differs.

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
    """Keys and values of a mapping, at any depth, as the command line takes them.

    >>> list(_words({"embed": {"rate_factor": 0.1, "b1": 0.8}, "head": {"name": "sgd"}}))
    ['embed', 'rate_factor', '0.1', 'b1', '0.8', 'head', 'name', 'sgd']
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _words(inner)
    else:
        yield str(value)
