"""Trains many small networks as one program: `vmap` over runs that differ in rate, weights and order of the data.

Use it for models with a step shorter than its call, where `fit_model` would cost more than the training. Nothing is
checkpointed: one run of the study trains all networks and keeps their results.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study.compare import label_of
from experiments.study.grid import Row
from experiments.study.workdir import Run
from train.files import make_folder
from train.objective import Objective
from train.optimizers import OptimizerConfig, evaluation_params, make_optimizer
from train.records.metrics_log import MetricsWriter
from train.records.report import Table
from train.state import create_state
from train.step import build_train_step

STEP = math.sqrt(10)
"""Ratio of neighbouring learning rates in a grid: half a decade."""
RATES = 5
"""Number of rates in a grid and in each extension."""
MOST = 6
"""Maximum number of grids in a search."""
FLAT = 0.01
"""Fraction of the best loss by which the lowest rate must be worse."""


class Runs(NamedTuple):
    """The inputs in which the runs of one program differ; the first axis of every leaf is the run."""

    rates: Any
    """Learning rates [R]."""
    params: Any
    """Initial parameters [R, ...]."""
    rows: Any
    """Rows of the pool in each batch, int [R, steps, B]."""
    own: Any = None
    """Further inputs of each run, such as labels [R, N]: `ctx.frozen` of the objective, and an input of `watch`."""
    state: Any = None
    """Initial mutable collections [R, ...]: `ctx.state` of the objective."""
    loss_weights: Any = None
    """Loss weights by name, [R] each, if they differ between runs; they replace the trainer's."""


class Trained(NamedTuple):
    """Parameters after the last step [R, ...], and the watched values by name, [R, steps // every]."""

    params: Any
    curves: dict[str, Any]


Trainer = Callable[[Runs, Any], Trained]
Watch = Callable[[Any, Any, Any], Mapping[str, Any]]


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
        objective: Its key is the same for all runs; for dropout, fold a number from the batch into it.
        loss_weights: The terms to train on.
        optimizer: The chain; the run's learning rate multiplies its learning rate.
        every: Steps between two evaluations, a divisor of the number of steps.
        watch: `(params, own, pool) -> {name: array}`, called at every evaluation. The mean loss of the steps since the
            last evaluation is always recorded, as "loss".
        accumulate: Number of micro-batches.
    """

    @jax.jit
    def train(runs: Runs, pool: Any) -> Trained:
        steps = runs.rows.shape[1]

        def one(run: Runs) -> Trained:
            chain = make_optimizer(optimizer, steps, rate_factor=run.rates)
            weights = loss_weights if run.loss_weights is None else run.loss_weights
            step = build_train_step(objective, chain, loss_weights=weights, accumulate=accumulate)

            def update(state: Any, rows: Any) -> Any:
                state, metrics = step(state, jax.tree.map(lambda leaf: leaf[rows], pool))
                return state, metrics["loss"][0]

            def look(state: Any, rows: Any) -> Any:
                state, losses = jax.lax.scan(update, state, rows)
                seen = {} if watch is None else watch(evaluation_params(state), run.own, pool)
                return state, {"loss": jnp.mean(losses), **seen}

            rows = run.rows.reshape(steps // every, every, -1)
            first = create_state(run.params, chain, key=0, frozen=run.own, state=run.state)
            state, curves = jax.lax.scan(look, first, rows)
            return Trained(evaluation_params(state), curves)

        return jax.vmap(one)(runs)

    return train


@dataclasses.dataclass(frozen=True)
class Bench:
    """State shared by the programs of a study. Rates are chosen first, with separate seeds; then the study is run."""

    config: Any
    """A study's config with `seed`, `seeds`, `tuning_seeds` and `training`."""
    run: Run
    trainers: dict[str, Trainer]
    """The programs, by name; each is compiled once for all runs of the same shapes."""
    tuned: Sequence[Row] | None = None
    """The rates tried, {"tuned": method, "rate", "loss"}; None while they are being tried."""
    central: bool = False
    """Choose the middle one of the rates within a standard error of the best, paired by seed. If many are equally good,
    other seeds may diverge at the best one."""

    @property
    def numbers(self) -> range:
        """The seeds of this stage."""
        first = 1_000 if self.tuned is None else 0
        return range(first, first + (self.config.tuning_seeds if self.tuned is None else self.config.seeds))

    def starts(self, init: Callable[[jax.Array], Any], rows: np.ndarray, batch_size: int, steps: int) -> Runs:
        """Initial weights and a data order for each seed of this stage, without rates.

        Args:
            init: Function from a key to parameters.
            rows: Training rows [n], or [S, n] if each seed has its own.
            batch_size: Number of examples in an update, at most n.
            steps: Number of updates.
        """
        seed, each = self.config.seed, np.broadcast_to(rows, (len(self.numbers), rows.shape[-1]))
        weights = [init(jax.random.fold_in(jax.random.key(seed), number)) for number in self.numbers]
        size = min(batch_size, rows.shape[-1])
        orders = [
            mine[epochs(len(mine), size, steps, [seed, number])]
            for number, mine in zip(self.numbers, each, strict=True)
        ]
        return Runs(None, stack(weights), jnp.asarray(np.stack(orders)))

    def rate(self, method: str, default: float) -> float:
        """The learning rate chosen for a method; the default in a dry run, which tries none."""
        rows = [row for row in self.tuned or () if row["tuned"] == method]
        return self._choice(rows) if rows else default

    def _choice(self, rows: Sequence[Row]) -> float:
        best = min(rows, key=lambda row: row["loss"])
        equal = [row["rate"] for row in rows if is_within_error(row["losses"], best["losses"])] if self.central else []
        return sorted(equal)[(len(equal) - 1) // 2] if equal else best["rate"]

    def table(self) -> Table:
        """The rates tried and chosen, for the report."""
        rows = []
        for method in dict.fromkeys(row["tuned"] for row in self.tuned or ()):
            tried = {row["rate"]: row["loss"] for row in self.tuned or () if row["tuned"] == method}
            best = self._choice([row for row in self.tuned or () if row["tuned"] == method])
            edge = "" if min(tried) < best < max(tried) else "at the edge"
            rows.append([method, f"{min(tried):.3g} to {max(tried):.3g}", f"{best:.3g}", f"{tried[best]:.4g}", edge])
        return Table(["method", "rates tried", "chosen", "mean loss of the tuning runs", ""], rows)

    def write_curves(self, setting: Row, every: int, curves: Mapping[str, Any]) -> None:
        """Writes curves [R, evaluations], averaged over runs, as the metrics of a setting; not in a dry run."""
        folder = self.run.folder(**setting)
        if folder.config.dry_run:
            return
        make_folder(folder.path, "the folder of a run")
        with MetricsWriter(folder.path) as writer:
            for place in range(np.shape(next(iter(curves.values())))[1]):
                means = {name: float(np.mean(values[:, place])) for name, values in curves.items()}
                writer.write((place + 1) * every, "train", means)


def one_by_one(trainer: Trainer) -> Trainer:
    """Trains the runs one after the other, if a step takes longer than its call: `vmap` then gains nothing."""

    def train(runs: Runs, pool: Any) -> Trained:
        count = len(runs.rows)
        each = [trainer(jax.tree.map(lambda leaf, n=n: leaf[n : n + 1], runs), pool) for n in range(count)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *each)

    return train


def tune_and_test(
    bench: Bench, arms: Sequence[Row], evaluate: Callable[[Bench, Row], list[Row]], untuned: Sequence[Row] = ()
) -> tuple[list[Row], Bench]:
    """Tries the rates of every arm with separate seeds, then runs each arm at its best rate.

    Args:
        bench: The bench, without rates.
        arms: Settings of the arms.
        evaluate: Called with the bench and an arm; returns the rates tried, like `tune`, while `bench.tuned` is None,
            and the results afterwards.
        untuned: Further settings without a rate to choose.

    Returns:
        The results, and the bench with the rates.
    """
    of = {label_of(arm): arm for arm in arms}
    tried = bench.run.all([{"tuned": name} for name in of], lambda tuned: evaluate(bench, of[tuned]))
    chosen = dataclasses.replace(bench, tuned=tried)
    return bench.run.all([*arms, *untuned], lambda **arm: evaluate(chosen, arm), on=tried), chosen


def train_at(trainer: Trainer, rate: float, runs: Runs, pool: Any) -> Trained:
    """Trains all runs with one learning rate."""
    return train_at_each(trainer, [rate], runs, pool)


def with_rates(runs: Runs, rates: jax.Array) -> Runs:
    """The runs with learning rates [R]."""
    return runs._replace(rates=rates)


def train_at_each(
    trainer: Trainer,
    values: Sequence[float],
    runs: Runs,
    pool: Any,
    vary: Callable[[Runs, jax.Array], Runs] = with_rates,
) -> Trained:
    """Trains all S runs with each learning rate; returns the results in the order of the rates.

    `vary`, which inserts numbers [R] into R runs, varies another quantity, such as the weight of a loss.
    """
    tiled = jax.tree.map(lambda leaf: jnp.tile(leaf, (len(values), *[1] * (leaf.ndim - 1))), runs)
    return trainer(vary(tiled, jnp.repeat(jnp.asarray(values, jnp.float32), len(runs.rows))), pool)


def search_rates(loss_of: Callable[[list[float]], Any], middle: float) -> dict[float, float]:
    """The loss at each rate of a log grid, extended until the best is not at its edge.

    It is also extended downwards while the lowest rate is within 1 % of the best: if all rates are too large, the
    network learns nothing and the best rate is arbitrary.

    Args:
        loss_of: Takes `RATES` learning rates and returns the loss of each, or of each and S seeds [RATES, S], each of
            which must then have its best inside; non-finite losses count as infinite.
        middle: Middle of the first grid.

    Returns:
        Mean loss by learning rate, in the order of the rates. If a best is still at an edge, `MOST` grids were tried.

    >>> found = search_rates(lambda rates: [abs(math.log10(rate / 100)) for rate in rates], middle=1.0)
    >>> [f"{rate:.3g}" for rate in found], f"{best_rate(found):.3g}"
    (['0.1', '0.316', '1', '3.16', '10', '31.6', '100', '316', '1e+03', '3.16e+03'], '100')
    """
    found = dict[int, np.ndarray]()
    first = -(RATES // 2)
    for _ in range(MOST):
        places = range(first, first + RATES)
        losses = np.reshape(loss_of([middle * STEP**place for place in places]), (RATES, -1)).astype(np.float64)
        found |= dict(zip(places, np.where(np.isfinite(losses), losses, math.inf), strict=True))
        tried = sorted(found)
        table = np.stack([found[place] for place in tried])
        best = {tried[place] for place in table.argmin(0)}
        if np.any(table[0] <= table.min(0) + FLAT * abs(table.min(0))):
            best.add(tried[0])
        if not best & {tried[0], tried[-1]}:
            break
        first = tried[-1] + 1 if tried[-1] in best else tried[0] - RATES
    return {middle * STEP**place: float(found[place].mean()) for place in sorted(found)}


def try_values(loss_of: Callable[[float], float], middle: float) -> list[Row]:
    """Searches a setting of a baseline, such as a penalty, like a learning rate."""
    found = search_rates(lambda values: [loss_of(value) for value in values], middle)
    return [{"rate": value, "loss": loss} for value, loss in found.items()]


def tune(
    trainer: Trainer,
    pool: Any,
    runs: Runs,
    middle: float,
    loss_of: Callable[[Trained], Any],
    vary: Callable[[Runs, jax.Array], Runs] = with_rates,
    *,
    each: bool = False,
) -> list[Row]:
    """Searches the learning rate of a trainer, or another number, by its mean loss over runs with separate seeds.

    Args:
        trainer: From `make_trainer`.
        pool: Its examples.
        runs: Runs of S seeds; the numbers that `vary` inserts are ignored.
        middle: Middle of the first grid.
        loss_of: The loss to minimise, [R] for R trained runs; use validation data.
        vary: Inserts numbers [R] into R runs, if they are not learning rates.
        each: Whether each seed, such as a fold, chooses separately: the grid is extended until all are inside.

    Returns:
        A row for each number tried: "rate", its mean "loss", and the "losses" of the seeds.
    """
    seeds, seen = len(runs.rows), dict[float, list[float]]()

    def losses(rates: list[float]) -> np.ndarray:
        found = loss_of(train_at_each(trainer, rates, runs, pool, vary))
        table = np.asarray(found, np.float64).reshape(len(rates), seeds)
        seen.update(zip(rates, table.tolist(), strict=True))
        return table if each else table.mean(1)

    return [{"rate": rate, "loss": loss, "losses": seen[rate]} for rate, loss in search_rates(losses, middle).items()]


def tune_runs(
    run: Run, names: Sequence[str], loss_of: Callable[..., Row], middle: float, *, extend: bool = True
) -> list[Row]:
    """Searches the learning rate of each method, with every training as a separate run of the study.

    Args:
        run: The study.
        names: The methods.
        loss_of: Called with `tuned`, a method, and `rate`; returns {"loss": ...}, from validation data.
        middle: Middle of the first grid.
        extend: Whether to search; otherwise only the middle is tried.

    Returns:
        The rows of these runs: "tuned", "rate" and "loss".
    """
    rows: list[Row] = []
    for name in names:

        def losses(rates: list[float], name: str = name) -> list[float]:
            tried = run.all([{"tuned": name, "rate": rate} for rate in rates], loss_of)
            rows.extend(tried)
            return [row["loss"] for row in tried]

        if extend:
            search_rates(losses, middle)
        else:
            losses([middle])
    return rows


def best_rate(losses: Mapping[float, float]) -> float:
    """The rate with the lowest loss."""
    return min(losses, key=lambda rate: losses[rate])


def is_within_error(losses: Sequence[float], best: Sequence[float]) -> bool:
    """Whether the mean difference of losses of the same seeds is at most its standard error.

    >>> is_within_error([1.0, 2.0, 3.0], [1.1, 1.8, 3.0]), is_within_error([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    (True, False)
    """
    gaps = np.subtract(losses, best)
    return bool(abs(gaps.mean()) <= gaps.std(ddof=1) / math.sqrt(len(gaps))) if len(gaps) > 1 else bool(gaps[0] == 0)


def methods(*names: str, **setting: Any) -> tuple[Row, ...]:
    """The settings of methods.

    >>> methods("SGD", "Adam", batch=8)
    ({'batch': 8, 'method': 'SGD'}, {'batch': 8, 'method': 'Adam'})
    """
    return tuple(setting | {"method": name} for name in names)


def rows_of(values: Mapping[str, Any], **same: Any) -> list[Row]:
    """A row for each seed, with values [R, ...] by name and the common values `same`.

    >>> rows_of({"error": np.array([0.5, 0.25])}, rate=0.1)
    [{'seed': 0, 'error': 0.5, 'rate': 0.1}, {'seed': 1, 'error': 0.25, 'rate': 0.1}]
    """
    lists = {name: np.asarray(value).tolist() for name, value in values.items()}
    count = len(next(iter(lists.values())))
    return [{"seed": seed, **{name: value[seed] for name, value in lists.items()}, **same} for seed in range(count)]


def stack(trees: Sequence[Any]) -> Any:
    """Trees of the same shape as one with a first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def epochs(count: int, batch_size: int, steps: int, seed: Sequence[int]) -> np.ndarray:
    """Rows of each batch, int [steps, batch_size]: every epoch in a new order, without an incomplete last batch.

    >>> np.sort(epochs(4, 2, 4, [0]).reshape(2, 4)).tolist()
    [[0, 1, 2, 3], [0, 1, 2, 3]]
    """
    rng, per_epoch = np.random.default_rng(seed), count // batch_size
    orders = [rng.permutation(count)[: per_epoch * batch_size] for _ in range(-(-steps // per_epoch))]
    return np.concatenate(orders).reshape(-1, batch_size)[:steps].astype(np.int32)
