"""Parameters whose optimizer has other settings, chosen by patterns on their paths."""

from typing import Any

import optax

from train.optimizers.config import OptimizerConfig
from train.optimizers.cores import Link, core_links
from train.optimizers.links import first_match
from train.paths import map_with_path, paths_of


def changes_at(config: OptimizerConfig, path: str) -> dict[str, Any]:
    """What is set otherwise for one parameter: of each setting, the first pattern found in its path.

    >>> changes_at(OptimizerConfig(b2_of={"head": 0.9, "kernel": 0.99}, name_of={"bias": "sgd"}), "head/kernel")
    {'b2': 0.9}
    """
    found = {name: first_match(values, path) for name, values in config.overrides().items()}
    return {name: value for name, value in found.items() if value is not None}


def groups_of(config: OptimizerConfig, params: Any) -> dict[str, OptimizerConfig]:
    """The configs of all groups of parameters that there are, by a name that says what is set otherwise.

    Args:
      config: the config of all parameters.
      params: the parameters, any pytree.

    Returns:
      The config of each group; the rest has the empty name.

    Raises:
      UsageError: settings of a group do not fit its optimizer.

    Example:
      >>> sorted(groups_of(OptimizerConfig(b2_of={"head": 0.9}), {"body": 0, "head": 0}))
      ['', 'b2=0.9']
    """
    found = [changes_at(config, path) for path in paths_of(params)]
    return {_name(changes): config.with_overrides(changes) for changes in found}


def by_group(config: OptimizerConfig, schedule: optax.Schedule) -> Link:
    """The links that make the optimizer what it is, for each parameter those of its group.

    Args:
      config: with overrides.
      schedule: the learning rate.

    Returns:
      One link in place of `core_links(config, schedule)`.
    """

    def partition(tree: Any) -> optax.GradientTransformationExtraArgs:
        chains = {
            name: optax.chain(*(link.transform for link in core_links(group, schedule)))
            for name, group in groups_of(config, tree).items()
        }
        return optax.partition(chains, map_with_path(lambda path, _: _name(changes_at(config, path)), tree))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        return partition(updates).update(updates, state, params, **extra)

    lines = [link.text for link in core_links(config, schedule)]
    for setting, values in config.overrides().items():
        for pattern, value in values.items():
            other = core_links(config.with_overrides({"name": value}), schedule) if setting == "name" else []
            text = "; ".join(link.text for link in other) or f"{setting} {value:g}"
            lines.append(f"instead, where {pattern!r} matches: {text}")
    transform = optax.GradientTransformationExtraArgs(lambda params: partition(params).init(params), update)
    return Link("\n".join(lines), transform)


def _name(changes: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changes.items())
