"""Tuning and training of parsers: arms with a main loss and, in some, an auxiliary loss with a tuned weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.baselines.heads import draw_rows
from experiments.data.treebank import TreeData
from experiments.evaluation import trees
from experiments.evaluation.structural_probe import MIDDLE as PROBE_RATE
from experiments.evaluation.structural_probe import Probes, fit_probes, outputs, tag_accuracy
from experiments.models.parser import Parser
from experiments.study import many
from experiments.study.grid import Row
from experiments.study.many import Bench, Runs, Trained
from train.records.report import Table

FEW = "few trees"
"""Arms with this value of "trained_on" have different trees for each seed."""
RATE, WEIGHT = 0.01, 0.3
"""Middles of the grids of learning rates and of auxiliary weights."""
TERMS = ("arc", "tag", "tree smoothness", "chain smoothness")
"""Losses of one program; each run has its own weights of them."""


class Arm(NamedTuple):
    """A main loss, its auxiliary loss, and the method without the auxiliary loss."""

    main: str
    extra: str | None = None
    plain: str = ""


class Lab(NamedTuple):
    """State shared by all runs."""

    bench: Bench
    data: TreeData
    model: Parser
    arms: Mapping[str, Arm]
    chosen: Sequence[Row] = ()
    """The rates and weights tried so far."""

    def best(self, name: str, default: float) -> float:
        """The number chosen for a name."""
        return dataclasses.replace(self.bench, tuned=self.chosen).rate(name, default)

    @property
    def table(self) -> Table:
        """All values tried."""
        return dataclasses.replace(self.bench, tuned=self.chosen).table()

    def runs(self, setting: Row) -> Runs:
        """Initial weights, orders and losses of the runs of an arm, without rates."""
        training, count = self.bench.config.training, len(self.data.treebank.train)
        few = min(self.bench.config.few, count)
        first = [self.data.pool[name][:1] for name in ("parts", "words")]
        init = jax.jit(lambda key: self.model.init(key, *first)["params"])
        rows = np.arange(few if setting["trained_on"] == FEW else count)
        runs = self.bench.starts(init, rows, min(training.batch_size, few), training.steps)
        seeds = np.arange(len(runs.rows)) + (self.bench.config.seeds if self.bench.tuned is None else 0)
        if setting["trained_on"] == FEW:
            draws = draw_rows(few, seeds, count)
            runs = runs._replace(rows=jnp.asarray(draws[np.arange(len(draws))[:, None, None], np.asarray(runs.rows)]))
        arm = self.arms[setting["method"]]
        weights = {arm.main: 1.0, arm.extra: self.best(f"weight, {label(setting)}", WEIGHT)}
        names = TERMS if arm.main in TERMS else (arm.main,)
        return runs._replace(loss_weights={n: jnp.full(len(runs.rows), weights.get(n, 0.0)) for n in names})

    def train(self, setting: Row) -> Trained:
        """Trains all runs of an arm at the chosen rate and weight."""
        fit, rate = self.bench.trainers[self.arms[setting["method"]].main], self.best(label(setting), RATE)
        return many.train_at(fit, rate, self.runs(setting), self.data.pool)

    def probes(self, params: Any, rates: Sequence[float] = ()) -> Probes:
        """Probes of encoders, at the best rate or at a given one."""
        config = self.bench.config
        size: Any = {"rank": config.rank, "steps": config.probe_steps, "rates": rates}
        return fit_probes(self.bench.trainers["probe"], self.model, params, self.data, **size)


def label(setting: Row) -> str:
    """The name of an arm in the tables of tuning."""
    return f"{setting['trained_on']}, {setting['method']}"


def tune_arms(lab: Lab, settings: Sequence[Row]) -> Lab:
    """Chooses the rates of plain arms, then the auxiliary weights at these rates, then the rates with them."""
    added = [setting for setting in settings if lab.arms[setting["method"]].extra]
    plain = [setting for setting in settings if setting not in added]
    tuning = lab
    for kind, some in (("", plain), ("weight, ", added), ("", added)):
        named = {kind + label(setting): setting for setting in some}

        def attempt(tuned: str, *, lab: Lab = tuning, named: dict[str, Row] = named, kind: str = kind) -> list[Row]:
            return search(lab, named[tuned], is_weight=kind != "")

        tried = lab.bench.run.all([{"tuned": name} for name in named], attempt, on=tuning.chosen)
        tuning = tuning._replace(chosen=[*tuning.chosen, *tried])
    return tuning._replace(bench=dataclasses.replace(lab.bench, tuned=tuning.chosen))


def search(lab: Lab, setting: Row, *, is_weight: bool) -> list[Row]:
    """Tries the auxiliary weights of an arm at the rate of the plain arm, or else its rates.

    The criterion is the share of wrongly attached words in validation sentences. If tags are learnt, it is the share of
    wrong tags for rates, and the share of arcs that a probe misses for auxiliary weights.
    """
    arm, held, runs = lab.arms[setting["method"]], lab.data.validation, lab.runs(setting)

    def errors(end: Trained) -> Any:
        if arm.main == "tag" and is_weight:
            return lab.probes(end.params, [PROBE_RATE]).errors
        found = outputs(lab.model, end.params, held)
        if arm.main == "tag":
            return [1 - tag_accuracy(tags, held) for tags in found.tags]
        return [1 - trees.share(trees.right_heads(trees.best_trees(arcs, held["words"]), held)) for arcs in found.arcs]

    fit, pool = lab.bench.trainers[arm.main], lab.data.pool
    if not is_weight:
        return many.tune(fit, pool, runs, RATE, errors)

    def vary(some: Runs, weights: jax.Array) -> Runs:
        return some._replace(loss_weights=some.loss_weights | {arm.extra: weights})

    rate = lab.best(label(setting | {"method": arm.plain}), RATE)
    return many.tune(fit, pool, runs._replace(rates=jnp.full(len(runs.rows), rate)), WEIGHT, errors, vary)
