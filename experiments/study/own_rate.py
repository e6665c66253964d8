"""Trainings of several methods at equal compute, each run with its own learning rate.

The rate is a parameter, `{"net": parameters, "rate": number}`, that gets no gradient and never changes. So a method is
compiled once for all rates of a search, and once for the runs of the study.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from experiments import study
from experiments.study.config import TrainingConfig
from experiments.study.training import Batches, Fitted, Recipe, Start, count_operations
from experiments.study.workdir import Folder
from train.objective import Objective
from train.optimizers import OptimizerConfig, make_optimizer


def with_rate(net: Any, rate: float) -> dict[str, Any]:
    """Parameters of a run with its learning rate.

    >>> with_rate({"w": 2.0}, 0.5)
    {'net': {'w': 2.0}, 'rate': Array(0.5, dtype=float32)}
    """
    return {"net": net, "rate": jnp.asarray(rate, jnp.float32)}


def by_rate(config: OptimizerConfig, steps: int) -> optax.GradientTransformationExtraArgs:
    """The config's optimizer for the parameters `net`; the parameter `rate` multiplies its learning rate."""

    def init(params: Any) -> Any:
        return make_optimizer(config, steps).init(params["net"])

    def update(updates: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        chain = make_optimizer(config, steps, rate_factor=params["rate"])
        net, state = chain.update(updates["net"], state, params["net"], **more)
        return {"net": net, "rate": jnp.zeros_like(params["rate"])}, state

    return optax.GradientTransformationExtraArgs(init, update)


@dataclasses.dataclass(frozen=True)
class Trainings:
    """Compiled trainings of methods."""

    config: TrainingConfig
    """The training; each run replaces its learning rate."""
    objectives: Mapping[str, Objective]
    """Objectives by method, for parameters from `with_rate`; the first is the plain method."""
    loss_weights: Mapping[str, Mapping[str, float]]
    """By method."""
    operations: dict[str, int] = dataclasses.field(default_factory=dict)
    """Operations of a step by method, filled by `count`."""
    recipes: dict[tuple[str, int], Recipe] = dataclasses.field(default_factory=dict)
    """Recipes by method and steps, made when needed."""

    def recipe(self, method: str, steps: int) -> Recipe:
        """The losses and optimizer of a method in a number of steps."""
        if (method, steps) not in self.recipes:
            chain = by_rate(dataclasses.replace(self.config.optimizer, learning_rate=1.0), steps)
            self.recipes[method, steps] = Recipe(self.objectives[method], self.loss_weights[method], chain)
        return self.recipes[method, steps]

    def count(self, method: str, net: Any, batch: Any) -> None:
        """Counts the operations of a step of a method on such a batch."""
        recipe, start = self.recipe(method, self.config.steps), Start(with_rate(net, 1.0), 0)
        self.operations[method] = count_operations(recipe, start, batch, self.config)

    def steps(self, method: str, steps: int) -> int:
        """Steps of a method with the same number of operations as `steps` steps of the plain one."""
        plain = self.operations[next(iter(self.objectives))]
        return max(1, round(steps * plain / self.operations[method]))

    def share(self, method: str, steps: int) -> float:
        """Operations of a method in its steps, relative to `steps` steps of the plain one."""
        plain = self.operations[next(iter(self.objectives))]
        return self.steps(method, steps) * self.operations[method] / (steps * plain)

    def fit(
        self, method: str, net: Any, batches: Batches, *, rate: float, steps: int, seed: int, folder: Folder
    ) -> Fitted:
        """Trains a network at a rate with the operations of `steps` steps of the plain method."""
        mine = self.steps(method, steps)
        training, start = dataclasses.replace(self.config, steps=mine), Start(with_rate(net, rate), seed)
        return study.fit_model(self.recipe(method, mine), start, batches, training=training, folder=folder)
