"""The optimizers and their settings."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

OptimizerName = Literal[
    "sgd",
    "momentum",
    "nesterov",
    "rmsprop",
    "adagrad",
    "adadelta",
    "adam",
    "adamw",
    "nadamw",
    "radam",
    "amsgrad",
    "adamax",
    "adabelief",
    "adan",
    "adopt",
    "lion",
    "lamb",
    "adafactor",
    "muon",
    "sophia",
    "prodigy",
    "dadapt_adamw",
    "schedule_free_sgd",
    "schedule_free_adamw",
]
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)

# Those that average, and those that estimate their step size.
SCHEDULE_FREE = ("schedule_free_sgd", "schedule_free_adamw")
SELF_RATED = ("prodigy", "dadapt_adamw")
# Those that do not square gradients, or handle large ones themselves.
LINEAR = ("sgd", "momentum", "nesterov", "adamax", "lion", "muon", "sophia", "schedule_free_sgd")

_ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
_NONE = {"weight_decay": 0.0}
_SOME = {"weight_decay": 0.01}
# The settings of each optimizer with their defaults; other settings are refused, not ignored.
DEFAULTS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "sgd": _NONE,
        "momentum": {"momentum": 0.9, **_NONE},
        "nesterov": {"momentum": 0.9, **_NONE},
        "rmsprop": {"momentum": 0.0, "b2": 0.9, "eps": 1e-8, **_NONE},
        "adagrad": {"eps": 1e-10, **_NONE},
        "adadelta": {"b2": 0.9, "eps": 1e-6, **_NONE},
        "adam": _ADAM,
        "adamw": {**_ADAM, **_SOME},
        "nadamw": {**_ADAM, **_SOME},
        "radam": {**_ADAM, **_NONE},
        "amsgrad": {**_ADAM, **_NONE},
        "adamax": {**_ADAM, **_NONE},
        "adabelief": {**_ADAM, "eps": 1e-16, **_NONE},
        "adan": {"b1": 0.98, "b2": 0.92, "b3": 0.99, "eps": 1e-8, **_SOME},
        "adopt": {"b1": 0.9, "b2": 0.9999, "eps": 1e-6, **_NONE},
        "lion": {"b1": 0.9, "b2": 0.99, **_SOME},
        "lamb": {**_ADAM, "eps": 1e-6, **_SOME},
        "adafactor": _NONE,
        "muon": {"momentum": 0.95, **_ADAM, **_SOME},
        "sophia": {"b1": 0.965, "b2": 0.99, "eps": 1e-12, **_SOME},
        "prodigy": {**_ADAM, **_NONE},
        "dadapt_adamw": {**_ADAM, **_NONE},
        "schedule_free_sgd": {"b1": 0.9, **_NONE},
        "schedule_free_adamw": {**_ADAM, **_SOME},
    }
)
SETTINGS = ("momentum", "b1", "b2", "b3", "eps", "weight_decay")

SettingName = Literal["name", "rate_factor", "momentum", "b1", "b2", "b3", "eps", "weight_decay"]
OVERRIDABLE: tuple[str, ...] = get_args(SettingName)
Overrides = Mapping[str, Mapping[SettingName, float | OptimizerName]]
"""Settings of some parameters only, by pattern."""
