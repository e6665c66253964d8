"""Networks that read, each trained for the same operations, at a width and a rate chosen on validation data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments import study
from experiments.data.utterances import Corpus
from experiments.evaluation.reading import Reader
from experiments.study import Recipe, Row, Run, Start, product
from experiments.study.many import Bench
from experiments.study.training import count_operations
from train.records.report import Table


class Readers(NamedTuple):
    """What all trainings share."""

    config: Any
    """The study's, with the width that was chosen."""
    corpus: Corpus
    run: Run
    starts: Callable[[Any, Corpus, str, int], tuple[Any, Start]]
    """Network and initial parameters, of the config, the corpus, an arm and a seed."""
    recipe_of: Callable[[Any, Corpus, str], Recipe]
    recipes: dict[str, Recipe]
    operations: dict[str, int]
    """Of a step of each arm."""
    budget: int
    """Operations that count as a step: those of CTC in the usual width."""
    tuned: Bench
    """The rates that were tried."""

    def fit(self, setting: Row, method: str, rate: float, seed: int, steps: int) -> Reader:
        """The network of a setting, trained for the operations of `steps` steps of the budget, or loaded."""
        config, corpus = self.config, self.corpus
        optimizer = dataclasses.replace(config.training.optimizer, learning_rate=rate)
        training = dataclasses.replace(config.training, optimizer=optimizer, steps=self.steps(method, steps))
        model, start = self.starts(config, corpus, method, seed)
        place: Any = {"training": training, "folder": self.run.folder(**setting)}
        batches = corpus.batches(training.batch_size, seed)
        fitted = study.fit_model(self.recipes[method], start, batches, **place)
        return Reader(corpus, model, fitted.params).tuned()

    def steps(self, method: str, steps: int) -> int:
        """Steps of an arm that take the operations of `steps` steps of the budget."""
        return max(1, round(steps * self.budget / self.operations[method]))

    def share(self, method: str) -> float:
        """Operations of a whole training of an arm, as a share of the budget."""
        steps = self.config.training.steps
        return self.steps(method, steps) * self.operations[method] / (steps * self.budget)

    def try_size(self, size: float, sized: str) -> Row:
        """The error of an arm on validation data after a whole training at the middle rate, with a seed of its own."""
        training, setting = self.config.training, {"size": size, "sized": sized}
        rate, seed = training.optimizer.learning_rate, self.config.seed + 2_000
        width = self.config.model.width
        return {"width": width, "loss": self.fit(setting, sized, rate, seed, training.steps).validate()}

    def tune(self, tuned: str, rate: float) -> Row:
        """The error of an arm on validation data at a rate, with a seed of its own."""
        setting, seed = {"tuned": tuned, "rate": rate}, self.config.seed + 1_000
        return {"loss": self.fit(setting, tuned, rate, seed, self.config.tuning_steps).validate()}

    def fit_chosen(self, method: str, seed: int) -> Reader:
        """The network of an arm at the rate that was chosen."""
        training, setting = self.config.training, {"method": method, "seed": seed}
        rate = self.tuned.rate(method, training.optimizer.learning_rate)
        return self.fit(setting, method, rate, self.config.seed + seed, training.steps)


def make_readers(
    config: Any, corpus: Corpus, run: Run, starts: Any, recipe_of: Any, budget: int | None = None
) -> Readers:
    """Makes the recipes, and counts the operations of a step of each arm; the budget is a step of CTC's by default."""
    recipes, operations = {}, {}
    batch = next(corpus.batches(config.training.batch_size, 0))
    for name in dict.fromkeys(("CTC", *config.arms)):
        recipes[name] = recipe_of(config, corpus, name)
        operations[name] = count_operations(recipes[name], starts(config, corpus, name, 0)[1], batch, config.training)
    found = budget or operations["CTC"]
    return Readers(config, corpus, run, starts, recipe_of, recipes, operations, found, Bench(config, run, {}))


def choose_size(usual: Readers, arms: Sequence[str], sizes: Sequence[float]) -> tuple[Readers, list[Row]]:
    """Chooses one width for all arms: the one with the least error on validation data, in the mean of the given arms.

    Args:
        usual: Readers of the usual width.
        arms: Arms that are tried.
        sizes: Widths, in shares of the usual one. One alone is not tried.

    Returns:
        Readers of that width, and the rows "size", "sized" (the arm), "width" and "loss".
    """
    readers = {size: _of_size(usual, size) for size in sizes}
    if len(sizes) == 1:
        return readers[sizes[0]], []
    grid = product(size=sizes, sized=arms)
    tried = usual.run.all(grid, lambda size, sized: readers[size].try_size(size, sized))
    return readers[min(sizes, key=_errors(tried).__getitem__)] if tried else usual, tried


def table_of_sizes(tried: Sequence[Row]) -> Table:
    """The error of each arm at each width, and their mean, of the rows of `choose_size`."""
    arms, errors = [*dict.fromkeys(row["sized"] for row in tried)], _errors(tried)
    best = min(errors, key=errors.__getitem__)
    lines = []
    for size, error in errors.items():
        rows = {row["sized"]: row for row in tried if row["size"] == size}
        chosen = "chosen" if size == best else ""
        lines.append([rows[arms[0]]["width"], *(rows[arm]["loss"] for arm in arms), error, chosen])
    return Table(["width", *arms, "mean", ""], lines)


def _of_size(usual: Readers, size: float) -> Readers:
    if size == 1:
        return usual
    model = dataclasses.replace(usual.config.model, width=round(size * usual.config.model.width))
    config = dataclasses.replace(usual.config, model=model)
    return make_readers(config, usual.corpus, usual.run, usual.starts, usual.recipe_of, usual.budget)


def _errors(tried: Sequence[Row]) -> dict[float, float]:
    """The mean over arms by size."""
    by_size: dict[float, list[float]] = {}
    for row in tried:
        by_size.setdefault(row["size"], []).append(row["loss"])
    return {size: sum(losses) / len(losses) for size, losses in by_size.items()}
