"""Many small trainings as one program: `vmap` over runs that differ in rate, weights and order of the data.

For models whose step is shorter than a call, where `fit_model` would cost more than the training. Nothing is
checkpointed: a run of the study trains all of them and keeps what it gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.study.workdir import Folder
from train.files import make_folder
from train.logging import MetricsWriter
from train.objective import Objective
from train.optimizers import OptimizerConfig, evaluation_params, make_optimizer
from train.state import create_state
from train.step import build_train_step

STEP = math.sqrt(10)
"""From a learning rate of a grid to the next: half a decade."""
RATES = 5
"""Rates of a grid, and of each extension."""
MOST = 6
"""Grids that are tried before a search gives up."""


class Runs(NamedTuple):
    """What tells runs of one program apart; every leaf has the runs as its first axis."""

    rates: Any
    """Learning rates [R]."""
    params: Any
    """Initial parameters [R, ...]."""
    rows: Any
    """Examples of each batch, int [R, steps, B], as rows of the pool."""
    sets: Any = None
    """What `watch` looks at, such as the rows of the validation data [R, n]."""


class Trained(NamedTuple):
    """Parameters after the last step [R, ...], and what was watched, by name, [R, steps // every]."""

    params: Any
    curves: dict[str, jax.Array]


Trainer = Callable[[Runs, Any], Trained]
Watch = Callable[[Any, Any, Any], Mapping[str, jax.Array]]


def make_trainer(
    objective: Objective,
    loss_weights: Mapping[str, float],
    optimizer: OptimizerConfig,
    *,
    every: int,
    watch: Watch | None = None,
    accumulate: int = 1,
) -> Trainer:
    """A compiled function `(runs, pool) -> trained`; called again with runs of the same shapes it compiles nothing.

    Args:
        objective: Draws nothing at random.
        loss_weights: The terms that are trained on.
        optimizer: The chain; its learning rate is multiplied by that of the run.
        every: Steps between two looks, a divisor of the number of steps.
        watch: `(params, sets, pool) -> {name: scalar}`, asked at every look. The mean loss of the steps since the last
            one is there without asking, as "loss".
        accumulate: Micro-batches of a batch.
    """

    @jax.jit
    def train(runs: Runs, pool: Any) -> Trained:
        steps = runs.rows.shape[1]

        def one(run: Runs) -> Trained:
            chain = make_optimizer(optimizer, steps, rate_factor=run.rates)
            step = build_train_step(objective, chain, loss_weights=loss_weights, accumulate=accumulate)

            def update(state: Any, rows: Any) -> Any:
                state, metrics = step(state, jax.tree.map(lambda leaf: leaf[rows], pool))
                return state, metrics["loss"][0]

            def look(state: Any, rows: Any) -> Any:
                state, losses = jax.lax.scan(update, state, rows)
                seen = {} if watch is None else watch(evaluation_params(state), run.sets, pool)
                return state, {"loss": jnp.mean(losses), **seen}

            rows = run.rows.reshape(steps // every, every, -1)
            state, curves = jax.lax.scan(look, create_state(run.params, chain, key=0), rows)
            return Trained(evaluation_params(state), curves)

        return jax.vmap(one)(runs)

    return train


def search_rates(loss_of: Callable[[list[float]], Sequence[float]], middle: float) -> dict[float, float]:
    """The loss at each rate of a log grid, extended until the best is not at its edge.

    Args:
        loss_of: Takes `RATES` learning rates and gives the loss of each; what is not finite counts as infinite.
        middle: Where the first grid lies.

    Returns:
        Loss by learning rate, in the order of the rates. If the best is at an edge after all, `MOST` grids were tried.

    >>> found = search_rates(lambda rates: [abs(math.log10(rate / 100)) for rate in rates], middle=1.0)
    >>> [f"{rate:.3g}" for rate in found], f"{best_rate(found):.3g}"
    (['0.1', '0.316', '1', '3.16', '10', '31.6', '100', '316', '1e+03', '3.16e+03'], '100')
    """
    found: dict[int, float] = {}
    first = -(RATES // 2)
    for _ in range(MOST):
        places = range(first, first + RATES)
        losses = loss_of([middle * STEP**place for place in places])
        found |= {p: float(loss) if np.isfinite(loss) else math.inf for p, loss in zip(places, losses, strict=True)}
        best = min(found, key=lambda place: found[place])
        if min(found) < best < max(found):
            break
        first = max(found) + 1 if best == max(found) else min(found) - RATES
    return {middle * STEP**place: found[place] for place in sorted(found)}


def best_rate(losses: Mapping[float, float]) -> float:
    """The rate with the lowest loss."""
    return min(losses, key=lambda rate: losses[rate])


def stack(trees: Sequence[Any]) -> Any:
    """Trees of the same shape as one with a first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def epochs(count: int, batch_size: int, steps: int, seed: Sequence[int]) -> np.ndarray:
    """Rows of each batch, int [steps, batch_size]: every epoch in a new order, its last rows left out if they are few.

    >>> np.sort(epochs(4, 2, 4, [0]).reshape(2, 4)).tolist()
    [[0, 1, 2, 3], [0, 1, 2, 3]]
    """
    rng, per_epoch = np.random.default_rng(seed), count // batch_size
    orders = [rng.permutation(count)[: per_epoch * batch_size] for _ in range(-(-steps // per_epoch))]
    return np.concatenate(orders).reshape(-1, batch_size)[:steps].astype(np.int32)


def write_curves(folder: Folder, every: int, curves: Mapping[str, Any]) -> None:
    """Writes mean curves [steps // every] of a run's trainings as its metrics, unless this is a dry run."""
    if folder.config.dry_run:
        return
    make_folder(folder.path, "the folder of a run")
    with MetricsWriter(folder.path) as writer:
        for place in range(len(next(iter(curves.values())))):
            writer.write((place + 1) * every, "train", {name: float(v[place]) for name, v in curves.items()})


def operations(objective: Objective, loss_weights: Mapping[str, float], optimizer: OptimizerConfig, *example: Any) -> float:
    """Floating-point operations of a step by the compiler's own count, of parameters and a batch."""
    params, batch = example
    chain: optax.GradientTransformation = make_optimizer(optimizer, 1)
    step = build_train_step(objective, chain, loss_weights=loss_weights)
    compiled = jax.jit(step).lower(create_state(params, chain, key=0), batch).compile()
    return float(compiled.cost_analysis()["flops"])
