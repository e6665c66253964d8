"""What can be said about an optimizer on the command line, checked as soon as it is said."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from train.errors import UsageError
from train.names import check_name
from train.schedules import SCHEDULES, ScheduleName, check_length

OptimizerName = Literal["sgd", "momentum", "nesterov", "adam", "adamw", "lion", "lamb", "adafactor", "muon"]
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)

LAYER_PATTERN = r"(?i:(?:layers?|blocks?)[/_]?(\d+)(?=/|$))"
EMBEDDING_PATTERN = r"(?i:embed)"
MUON_EXCLUDE = r"(?i:embed|(?:^|[/_])head(?:_\d+)?(?:/|$))"

_ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
# The settings each optimizer has, with the values that None stands for; any other setting is refused, not ignored.
_DEFAULTS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "sgd": {"weight_decay": 0.0},
        "momentum": {"momentum": 0.9, "weight_decay": 0.0},
        "nesterov": {"momentum": 0.9, "weight_decay": 0.0},
        "adam": _ADAM,
        "adamw": {**_ADAM, "weight_decay": 0.01},
        "lion": {"b1": 0.9, "b2": 0.99, "weight_decay": 0.01},
        "lamb": {**_ADAM, "eps": 1e-6, "weight_decay": 0.01},
        "adafactor": {"weight_decay": 0.0},
        "muon": {"momentum": 0.95, **_ADAM, "weight_decay": 0.01},
    }
)


@dataclass(frozen=True)
class OptimizerConfig:
    """How parameters are updated.

    Raises:
      UsageError: a name is unknown, a number out of range, a pattern no regular expression, or a setting is not one of
        the chosen optimizer.

    Example:
      >>> OptimizerConfig(name="adamw").setting("weight_decay")
      0.01
      >>> OptimizerConfig(name="sgd", b2=0.98)
      Traceback (most recent call last):
      train.errors.UsageError: sgd has no b2: leave b2 at None, or choose one of adam, adamw, lion, lamb, muon.
    """

    name: OptimizerName = "adamw"
    """The optimizer. Muon orthogonalises the updates of matrices and leaves all other parameters to Adam."""

    learning_rate: float = 1e-3
    """Peak learning rate, reached at the end of the warm-up. For Adafactor relative to the size of each parameter."""

    schedule: ScheduleName = "cosine"
    """How the learning rate goes on after the warm-up. wsd: stable, then decaying over the cooldown."""

    warmup: float = 0.0
    """Linear warm-up of the learning rate from 0: below 1 a fraction of the run, from 1 on a number of steps."""

    cooldown: float = 0.2
    """Final decay of the wsd schedule: below 1 a fraction of the run, from 1 on a number of steps."""

    final_fraction: float = 0.0
    """Learning rate at the end as a fraction of its peak, for linear, cosine and wsd."""

    momentum: float | None = None
    """Momentum of momentum, nesterov and muon. None: 0.9, for Muon 0.95."""

    b1: float | None = None
    """Decay of the average of gradients in Adam, AdamW, Lion, LAMB and Muon's Adam part. None: 0.9."""

    b2: float | None = None
    """Decay of the average of squared gradients in the Adam family, of the momentum in Lion. None: 0.999; Lion 0.99."""

    eps: float | None = None
    """Added to the root of the average of squared gradients in the Adam family. None: 1e-8, for LAMB 1e-6."""

    weight_decay: float | None = None
    """Decoupled weight decay, multiplied by the learning rate. None: 0.01 for AdamW, Lion, LAMB and Muon, otherwise 0.
    Adam has none: with it, it is AdamW."""

    l2: float = 0.0
    """Coupled L2 penalty: l2 * w is added to the gradient after clipping."""

    l1: float = 0.0
    """Coupled L1 penalty: l1 * sign(w) is added to the gradient after clipping."""

    decay_pattern: str | None = None
    """Regular expression for the paths of parameters that decay (weight_decay, l1, l2), searched in paths such as
    encoder/layer_0/kernel. None: all with two or more axes that are not called bias or scale."""

    clip_norm: float | None = None
    """Norm of the gradients of all trained parameters together above which they are scaled down to it. None: no
    clipping."""

    clip_value: float | None = None
    """Each entry of a gradient is clipped to plus or minus this, before clip_norm. None: no clipping."""

    layer_decay: float = 1.0
    """Learning rate of a layer relative to that of the next one above; the head has the full rate and embeddings the
    lowest. 1: the same rate everywhere."""

    layer_pattern: str = LAYER_PATTERN
    """Regular expression that finds the number of a layer in a parameter's path (its first group)."""

    embedding_pattern: str = EMBEDDING_PATTERN
    """Regular expression for the embeddings, which layer_decay puts below layer 0."""

    freeze: str | None = None
    """Regular expression for the paths of parameters that are not trained. None: all are trained."""

    muon_exclude: str = MUON_EXCLUDE
    """Regular expression for the paths of matrices that Muon leaves to Adam: by default embeddings and heads."""

    def __post_init__(self) -> None:
        check_name("optimizer", self.name, OPTIMIZERS)
        check_name("schedule", self.schedule, SCHEDULES)
        _check_numbers(self)
        _check_patterns(self)
        for name in ("momentum", "b1", "b2", "eps", "weight_decay"):
            _check_belongs(self, name)

    def setting(self, name: str) -> float:
        """The value of a setting that may have been left at None: then the optimizer's own default.

        Args:
          name: `momentum`, `b1`, `b2`, `eps` or `weight_decay`.

        Returns:
          The value that is used; 0 for a setting this optimizer does not have.
        """
        value = getattr(self, name)
        return _DEFAULTS[self.name].get(name, 0.0) if value is None else value


_NOT_NEGATIVE = (lambda v: 0 <= v < math.inf, "a finite number from 0 up")
_POSITIVE = (lambda v: 0 < v < math.inf, "a finite number above 0")
_BETA = (lambda v: 0 <= v < 1, "in [0, 1)")
_RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = MappingProxyType(
    {
        "learning_rate": _NOT_NEGATIVE,
        "final_fraction": (lambda v: 0 <= v <= 1, "in [0, 1]"),
        "momentum": _BETA,
        "b1": _BETA,
        "b2": _BETA,
        "eps": _POSITIVE,
        "weight_decay": _NOT_NEGATIVE,
        "l1": _NOT_NEGATIVE,
        "l2": _NOT_NEGATIVE,
        "clip_norm": _POSITIVE,
        "clip_value": _POSITIVE,
        "layer_decay": (lambda v: 0 < v <= 1, "in (0, 1]"),
    }
)


def _check_numbers(config: OptimizerConfig) -> None:
    """Every number in its range; NaN is in none."""
    for name, (is_right, range_text) in _RANGES.items():
        value = getattr(config, name)
        if value is not None and not is_right(value):
            raise UsageError(f"{name} must be {range_text}, not {value!r}.")
    check_length(config.warmup, "warmup")
    check_length(config.cooldown, "cooldown")


def _check_patterns(config: OptimizerConfig) -> None:
    """Every pattern a regular expression, and that of the layers with a group for their number."""
    for name in ("decay_pattern", "freeze", "layer_pattern", "embedding_pattern", "muon_exclude"):
        pattern = getattr(config, name)
        try:
            groups = 0 if pattern is None else re.compile(pattern).groups
        except re.error as error:
            raise UsageError(f"{name}={pattern!r} is not a regular expression: {error}.") from error
        if name == "layer_pattern" and groups < 1:
            raise UsageError(rf"{name}={pattern!r} needs a group for the number of the layer, such as layer_(\d+).")


def _check_belongs(config: OptimizerConfig, name: str) -> None:
    """A setting that the optimizer does not have is refused; a weight decay of 0 is none and passes."""
    if getattr(config, name) is None or name in _DEFAULTS[config.name]:
        return
    if name == "weight_decay":
        if config.weight_decay == 0:
            return
        raise UsageError("adam has no decoupled weight decay: choose adamw, or use l2, or leave weight_decay at None.")
    having = ", ".join(other for other in OPTIMIZERS if name in _DEFAULTS[other])
    raise UsageError(f"{config.name} has no {name}: leave {name} at None, or choose one of {having}.")
