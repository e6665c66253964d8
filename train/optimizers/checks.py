"""Whether the settings of an optimizer make sense, each alone and together."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from train.errors import UsageError, check_name
from train.optimizers.names import DEFAULTS, OPTIMIZERS, SCHEDULE_FREE, SELF_RATED, SETTINGS
from train.optimizers.schedules import SCHEDULES, check_length

_NOT_NEGATIVE = (lambda v: 0 <= v < math.inf, "a finite number from 0 up")
_POSITIVE = (lambda v: 0 < v < math.inf, "a finite number above 0")
_BETA = (lambda v: 0 <= v < 1, "in [0, 1)")
_FRACTION = (lambda v: 0 <= v <= 1, "in [0, 1]")
_COUNT = (lambda v: isinstance(v, int) and v >= 1, "a whole number from 1 up")
_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "learning_rate": _NOT_NEGATIVE,
        "final_fraction": _FRACTION,
        "momentum": _BETA,
        "b1": _BETA,
        "b2": _BETA,
        "b3": _BETA,
        "eps": _POSITIVE,
        "weight_decay": _NOT_NEGATIVE,
        "l1": _NOT_NEGATIVE,
        "l2": _NOT_NEGATIVE,
        "proximal_l1": _NOT_NEGATIVE,
        "clip_norm": _POSITIVE,
        "clip_value": _POSITIVE,
        "layer_decay": (lambda v: 0 < v <= 1, "in (0, 1]"),
        "rate_of": _NOT_NEGATIVE,
        "plateau_factor": (lambda v: 0 < v < 1, "in (0, 1)"),
        "plateau_window": _COUNT,
        "plateau_patience": _COUNT,
        "plateau_cooldown": (lambda v: isinstance(v, int) and v >= 0, "a whole number from 0 up"),
        "plateau_tolerance": (lambda v: 0 < v < 1, "in (0, 1)"),
        "plateau_minimum": _FRACTION,
        "lookahead_every": _COUNT,
        "lookahead_rate": (lambda v: 0 < v <= 1, "in (0, 1]"),
        "sam_radius": _POSITIVE,
        "sophia_gamma": _POSITIVE,
        "sophia_every": _COUNT,
    }
)
_PATTERNS = ("decay_pattern", "freeze", "layer_pattern", "embedding_pattern", "muon_exclude")


def check(config: Any) -> None:
    """Checks an `OptimizerConfig`.

    Args:
      config: the config.

    Raises:
      UsageError: a name is unknown, a number out of range, a pattern no regular expression, a setting is not one of
        the chosen optimizer, or two settings exclude each other.
    """
    check_name("optimizer", config.name, OPTIMIZERS)
    check_name("schedule", config.schedule, SCHEDULES)
    _check_numbers(config)
    _check_patterns(config)
    for name in SETTINGS:
        _check_belongs(config, name)
    _check_name_of(config)
    _check_together(config)


def _check_numbers(config: Any) -> None:
    """Every number in its range; NaN is in none."""
    for name, (is_right, range_text) in _RANGES.items():
        for where, value in _values(config, name):
            if value is not None and not is_right(value):
                raise UsageError(f"{where} must be {range_text}, not {value!r}.")
    check_length(config.warmup, "warmup")
    check_length(config.cooldown, "cooldown")


def _values(config: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A setting's value and those it has for some parameters, each with its name."""
    own = {} if name.endswith("_of") else {name: getattr(config, name)}
    field = name if name.endswith("_of") else f"{name}_of"
    yield from own.items()
    for pattern, value in getattr(config, field, {}).items():
        yield f"{field}[{pattern!r}]", value


def _check_patterns(config: Any) -> None:
    """Every pattern a regular expression, and that of the layers with a group for their number."""
    patterns = [(name, getattr(config, name)) for name in _PATTERNS]
    for name in ("rate_of", "name_of", *(f"{name}_of" for name in SETTINGS)):
        patterns += [(name, pattern) for pattern in getattr(config, name)]
    for name, pattern in patterns:
        try:
            groups = 0 if pattern is None else re.compile(pattern).groups
        except re.error as error:
            raise UsageError(f"{name}={pattern!r} is not a regular expression: {error}.") from error
        if name == "layer_pattern" and groups < 1:
            raise UsageError(rf"{name}={pattern!r} needs a group for the number of the layer, such as layer_(\d+).")


def _check_belongs(config: Any, name: str) -> None:
    """A setting that the optimizer does not have is refused; a weight decay of 0 is none and passes."""
    value = getattr(config, name)
    if value is None or name in DEFAULTS[config.name]:
        return
    if name == "weight_decay":
        if value == 0:
            return
        raise UsageError("adam has no decoupled weight decay: choose adamw, or use l2, or leave weight_decay at None.")
    having = ", ".join(other for other in OPTIMIZERS if name in DEFAULTS[other])
    raise UsageError(f"{config.name} has no {name}: leave {name} at None, or choose one of {having}.")


def _check_name_of(config: Any) -> None:
    """Only optimizers that are one link of a chain can be mixed."""
    alone = (*SCHEDULE_FREE, *SELF_RATED)
    for pattern, name in config.name_of.items():
        check_name(f"optimizer in name_of[{pattern!r}]", name, OPTIMIZERS)
        for mixed in (name, config.name):
            if mixed in alone:
                raise UsageError(f"name_of cannot mix {mixed} with another optimizer: it has to see all parameters.")


def _check_together(config: Any) -> None:
    """Settings that exclude each other."""
    name = config.name
    if config.bias_correction and name not in SELF_RATED:
        raise UsageError(
            f"bias_correction can be chosen for {' and '.join(SELF_RATED)} only, not for {name}: leave it at False."
        )
    if name in SCHEDULE_FREE:
        if config.schedule != "constant":
            raise UsageError(
                f"{name} averages instead of lowering the learning rate: use schedule=constant, not {config.schedule}."
            )
        for _, b1 in _values(config, "b1"):
            if b1 == 0:
                raise UsageError(f"b1 must be above 0 for {name}, which divides by it.")
        for other in ("plateau_factor", "lookahead_every"):
            if getattr(config, other) is not None:
                raise UsageError(f"{name} averages by itself: leave {other} at None.")
        if config.b1_of:
            raise UsageError(f"{name} has one b1 for all parameters: leave b1_of empty.")
    if config.proximal_l1:
        averaged = name if name in SCHEDULE_FREE else "lookahead_every" if config.lookahead_every else None
        if averaged is not None:
            raise UsageError(f"proximal_l1 makes exact zeros, which the average of {averaged} would lose: use l1.")
        if name in SELF_RATED:
            raise UsageError(f"proximal_l1 needs the learning rate, which {name} keeps to itself: use l1.")
