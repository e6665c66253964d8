"""Parameters that the optimizer updates with other settings, chosen by patterns on their paths."""

import re
from typing import Any

import optax

from train.optimizers.config import OptimizerConfig
from train.optimizers.cores import Link, core_links
from train.optimizers.names import OVERRIDABLE
from train.paths import map_with_path, paths_of
from train.trees import Params, Tree


def settings_at(config: OptimizerConfig, path: str) -> dict[Any, Any]:
    """The overrides of one parameter except `rate_factor`, each from the first pattern that has it.

    >>> settings_at(OptimizerConfig(overrides={"head": {"b2": 0.9}, "kernel": {"b1": 0.8, "b2": 0.99}}), "head/kernel")
    {'b1': 0.8, 'b2': 0.9}
    """
    found: dict[Any, Any] = {}
    for pattern, settings in config.overrides.items():
        if re.search(pattern, path):
            found = {**settings, **found}
    # In a fixed order, because it determines the name of the group, which is in checkpoints.
    return {name: found[name] for name in OVERRIDABLE if name in found and name != "rate_factor"}


def groups_of(config: OptimizerConfig, params: Params) -> dict[str, OptimizerConfig]:
    """The configs of all groups of parameters with the same settings.

    Returns:
        The config of each group by a name that lists its settings; the rest has the empty name.

    >>> sorted(groups_of(OptimizerConfig(overrides={"head": {"b2": 0.9}}), {"body": 0, "head": 0}))
    ['', 'b2=0.9']
    """
    found = [settings_at(config, path) for path in paths_of(params)]
    return {_name(settings): config.with_settings(settings) for settings in found}


def by_group(config: OptimizerConfig, schedule: optax.Schedule) -> Link:
    """The core links of each group of parameters, as one link."""

    def partition(tree: Tree) -> optax.GradientTransformationExtraArgs:
        chains = {
            name: optax.chain(*(link.transform for link in core_links(group, schedule)))
            for name, group in groups_of(config, tree).items()
        }
        return optax.partition(chains, map_with_path(lambda path, _: _name(settings_at(config, path)), tree))

    def update(updates: Tree, state: Any, params: Params = None, **extra: Any) -> tuple[Any, Any]:
        updates, state = partition(updates).update(updates, state, params, **extra)
        return updates, state

    lines = [link.text for link in core_links(config, schedule)]
    for pattern, settings in config.overrides.items():
        own: dict[Any, Any] = {name: value for name, value in settings.items() if name != "rate_factor"}
        if "name" in own:
            text = "; ".join(link.text for link in core_links(config.with_settings(own), schedule))
        else:
            text = ", ".join(f"{name} {value:g}" for name, value in own.items())
        if own:
            lines.append(f"instead, where {pattern!r} matches: {text}")
    transform = optax.GradientTransformationExtraArgs(lambda params: partition(params).init(params), update)
    return Link("\n".join(lines), transform)


def _name(settings: dict[Any, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
