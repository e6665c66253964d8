"""Whether the settings of an optimizer make sense, each alone and together."""

import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from train.errors import UsageError, check_name
from train.optimizers.names import DEFAULTS, OPTIMIZERS, OVERRIDABLE, SCHEDULE_FREE, SELF_RATED, Overrides

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
        "rate_factor": _NOT_NEGATIVE,
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


def check_ranges(values: Mapping[Any, object], where: str = "") -> None:
    """Checks that each number is in the range of its setting. NaN is in none.

    Args:
        values: Settings by name. At the top None stands for a default and passes; settings without a range always pass.
        where: The mapping that holds them, for the message; empty at the top.
    """
    for name, value in values.items():
        if name in _RANGES and (value is not None or where):
            is_right, range_text = _RANGES[name]
            try:
                right = is_right(value)
            except TypeError:  # no number
                right = False
            if not right:
                raise UsageError(f"{f'{where}[{name!r}]' if where else name} must be {range_text}, not {value!r}.")


def check_pattern(name: str, pattern: str | None) -> None:
    """Checks that a pattern is a regular expression, and that `layer_pattern` has a group for the number."""
    try:
        groups = 0 if pattern is None else re.compile(pattern).groups
    except (re.error, TypeError) as error:
        raise UsageError(f"{name}={pattern!r} is not a regular expression: {error}.") from error
    if name == "layer_pattern" and groups < 1:
        raise UsageError(rf"{name}={pattern!r} needs a group for the number of the layer, such as layer_(\d+).")


def check_belongs(optimizer: str, name: str, value: float | None) -> None:
    """Refuses a setting that the optimizer does not have. A weight decay of 0 is none and passes."""
    if value is None or name in DEFAULTS[optimizer]:
        return
    if name == "weight_decay":
        if value == 0:
            return
        raise UsageError("adam has no decoupled weight decay: choose adamw, or use l2, or leave weight_decay at None.")
    having = ", ".join(other for other in OPTIMIZERS if name in DEFAULTS[other])
    raise UsageError(f"{optimizer} has no {name}: leave {name} at None, or choose one of {having}.")


def check_overrides(optimizer: str, overrides: Overrides) -> None:
    """Checks patterns, names and values of `overrides`. Only optimizers that are one link of a chain can be mixed.

    >>> check_overrides("adamw", {"head": {"decay": 0.1}})
    Traceback (most recent call last):
    train.errors.UsageError: unknown setting in overrides['head'] 'decay'... Choose one of: name, rate_factor, ...
    """
    if not isinstance(overrides, Mapping):
        raise UsageError(f"expected overrides as {{pattern: {{setting: value}}}}, got {overrides!r:.100}.")
    for pattern, settings in overrides.items():
        where = f"overrides[{pattern!r}]"
        check_pattern("overrides", pattern)
        if not isinstance(settings, Mapping) or not settings:
            raise UsageError(f"expected {where} as settings by name, such as {{'b2': 0.9}}, got {settings!r:.100}.")
        for name in settings:
            check_name(f"setting in {where}", name, OVERRIDABLE)
        check_ranges(settings, where)
        if "name" in settings:
            other = check_name(f"optimizer in {where}", str(settings["name"]), OPTIMIZERS)
            for mixed in (other, optimizer):
                if mixed in (*SCHEDULE_FREE, *SELF_RATED):
                    raise UsageError(f"{where} cannot mix {mixed} with others: it has to see all parameters.")


def check_schedule_free(
    optimizer: str, schedule: str, b1: float | None, overrides: Overrides, unused: Mapping[str, object]
) -> None:
    """Checks what a schedule-free optimizer cannot be combined with; the settings in `unused` must be None."""
    if schedule != "constant":
        raise UsageError(
            f"{optimizer} averages instead of lowering the learning rate: use schedule=constant, not {schedule}."
        )
    if b1 == 0:
        raise UsageError(f"b1 must be above 0 for {optimizer}, which divides by it.")
    for name, value in unused.items():
        if value is not None:
            raise UsageError(f"{optimizer} averages by itself: leave {name} at None.")
    if any("b1" in settings for settings in overrides.values()):
        raise UsageError(f"{optimizer} has one b1 for all parameters: leave b1 out of overrides.")


def check_proximal(optimizer: str, *, has_lookahead: bool) -> None:
    """Refuses the proximal step where an average or the optimizer itself would undo it."""
    averaged = optimizer if optimizer in SCHEDULE_FREE else "lookahead_every" if has_lookahead else None
    if averaged is not None:
        raise UsageError(f"proximal_l1 makes exact zeros, which the average of {averaged} would lose: use l1.")
    if optimizer in SELF_RATED:
        raise UsageError(f"proximal_l1 needs the learning rate, which {optimizer} keeps to itself: use l1.")
