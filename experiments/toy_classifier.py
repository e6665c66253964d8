"""The tutorial network 1-10-1, on labels that mean nothing and on labels that do.

A network with one input, ten ReLU units and a sigmoid, trained with binary cross-entropy and Adam at 1e-3 for 100
epochs, is a common first example. It is often shown on labels that are independent of the inputs. Then there is nothing
to learn: the held-out accuracy is 0.5 up to the noise of the test set, and only the training accuracy rises. The study
compares this with labels that depend on the input (a 1 is more likely farther from 0), for which the best possible
accuracy is known. Logistic regression is the baseline; it cannot represent this rule, which is symmetric around 0.
Three initialisations, each with zero biases: Xavier (Glorot and Bengio 2010), He (He et al. 2015, arXiv:1502.01852) and
Gaussian with standard deviation 0.02. The report also works out the tutorial's example of a cross-entropy.

    python -m experiments.toy_classifier

Expected: on random labels, training accuracy 0.526 ± 0.012 and held-out accuracy 0.500 ± 0.004 (10 runs, Xavier); on
labels that depend on the input, held-out 0.862 ± 0.003 with every initialisation, where 0.863 is the best possible and
logistic regression gets 0.52 ± 0.10. 1.3 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression

import lossfns
from experiments import study
from experiments.evaluation.toy import draw_beliefs, draw_learning, worked_example
from experiments.models.mlp import MLP
from experiments.study import Question, Recipe, Row, Run, Start, Training, TrainingConfig, axis, fit_model, product
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig
from train.optimizers.initializers import make_initializer

Labels = Literal["random", "dependent"]
BASELINE = "logistic regression"
STEEPNESS, MIDDLE = 10.0, 0.5
"""The rule of the dependent labels: p(1 | x) = sigmoid(STEEPNESS * (|x| - MIDDLE)), x uniform in -1 .. 1."""
GRID = np.linspace(-1, 1, 81)
"""Inputs at which the learnt probability is plotted."""
LOOKS = 20
"""Number of points of a learning curve."""


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """A network of 31 parameters."""

    labels: tuple[Labels, ...] = axis(("random", "dependent"))
    """random: coin flips, as published; dependent: more likely 1 the farther the input is from 0."""
    initializers: tuple[str, ...] = axis(("xavier_uniform", "he_normal", "gaussian"))
    """Initialisation of the weights; the biases start at 0."""
    seeds: int = axis(10)
    """Number of runs per setting, each with its own data."""
    train_examples: int = 1_000
    """Training examples per run."""
    test_examples: int = 10_000
    """Held-out examples per run; half as many others are validation data, for the learning curves alone."""
    epochs: int = 100
    """Passes over the training examples, unless `--steps` sets the number of updates."""
    hidden: int = 10
    """Hidden units."""
    training: Training = TrainingConfig(
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, schedule="constant"),
        steps=0,
        batch_size=32,
        devices=1,  # there is nothing to split
    )
    """Training; the last batch of an epoch may have fewer examples."""

    def fast(self) -> Config:
        """Returns a small config that runs the same code in seconds."""
        return dataclasses.replace(self, seeds=2, train_examples=70, test_examples=200, epochs=3)


@dataclasses.dataclass(frozen=True)
class Data:
    """Inputs [N, 1] and labels [N] of the training, the test and the validation set."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    validation_x: np.ndarray
    validation_y: np.ndarray


def probability(labels: Labels, x: np.ndarray) -> np.ndarray:
    """Returns p(1 | x).

    >>> probability("dependent", np.array([-0.5, 0.5])).tolist()
    [0.5, 0.5]
    """
    return np.full(x.shape, 0.5) if labels == "random" else 1 / (1 + np.exp(-STEEPNESS * (np.abs(x) - MIDDLE)))


def bayes_accuracy(labels: Labels) -> float:
    """Returns the accuracy of the Bayes classifier: the mean over x of max(p, 1 - p).

    >>> bayes_accuracy("random"), round(bayes_accuracy("dependent"), 3)
    (0.5, 0.863)
    """
    p = probability(labels, (np.arange(100_000) + 0.5) / 100_000)
    return float(np.mean(np.maximum(p, 1 - p)))


def bayes_loss(labels: Labels) -> float:
    """Returns the cross-entropy of the true probabilities (nats).

    >>> round(bayes_loss("random"), 4)  # ln 2
    0.6931
    """
    p = probability(labels, (np.arange(100_000) + 0.5) / 100_000)
    return float(-np.mean(p * np.log(p) + (1 - p) * np.log(1 - p)))


def make_data(config: Config, labels: Labels, seed: int) -> Data:
    """Draws the examples of one run."""
    rng, parts = np.random.default_rng([config.seed, seed]), []
    for sizes in (config.train_examples, config.test_examples), (config.test_examples // 2,):
        xs = [rng.uniform(-1, 1, (n, 1)).astype(np.float32) for n in sizes]
        ys = [(rng.random(len(x)) < probability(labels, x[:, 0])).astype(np.float32) for x in xs]
        parts += [part for pair in zip(xs, ys, strict=True) for part in pair]
    return Data(*parts)


def epochs(data: Data, batch_size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields endless batches {"x" [B, 1], "y" [B], "valid" [B]}, each epoch in a new order.

    The last batch of an epoch is padded with invalid rows.
    """
    rng = np.random.default_rng([seed, 1])
    count = len(data.train_y)
    while True:
        order = rng.permutation(count)
        for start in range(0, count, batch_size):
            place = np.arange(start, start + batch_size)
            index = order[place % count]
            yield {"x": data.train_x[index], "y": data.train_y[index], "valid": place < count}


def make_model(config: Config, initializer: str) -> MLP:
    """Returns the network; its output is the log-odds, and the sigmoid is part of the loss."""
    return MLP((config.hidden, 1), make_initializer(initializer))


def make_objective(model: MLP) -> Objective:
    """Returns binary cross-entropy and accuracy."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        logits: Any = model.apply({"params": params}, batch["x"])
        logits, valid = logits[:, 0], batch["valid"]
        return {
            "bce": term(lossfns.sigmoid_cross_entropy, logits, batch["y"], where=valid),
            "accuracy": Term((logits > 0) == (batch["y"] > 0.5), valid),
        }

    return objective


def train_network(config: Config, recipe: Recipe, run: Run, labels: Labels, method: str, seed: int) -> Row:
    """Trains one network; returns its accuracies and its predicted probabilities over the inputs."""
    data, model = make_data(config, labels, seed), make_model(config, method)
    size = min(config.training.batch_size, config.train_examples)
    per_epoch = -(-config.train_examples // size)
    steps = config.training.steps or config.epochs * per_epoch
    key = jax.random.fold_in(jax.random.key(config.seed), seed)

    def judge(fitted: study.Fitted) -> dict[str, float]:
        of = lambda x, y: fitted.evaluate([{"x": x, "y": y, "valid": np.ones(len(y), bool)}])  # noqa: E731
        seen = {f"train_{name}": value for name, value in of(data.train_x, data.train_y).items()}
        return seen | of(data.validation_x, data.validation_y)

    every = max(1, steps // LOOKS)
    fitted = fit_model(
        recipe,
        Start(model.init(key, jnp.zeros((1, 1)))["params"], key),
        epochs(data, size, seed),
        training=dataclasses.replace(config.training, steps=steps, log_every=per_epoch, eval_every=every),
        folder=run.folder(labels=labels, method=method, seed=seed),
        validation=judge,
    )

    def log_odds(x: np.ndarray) -> np.ndarray:
        return np.asarray(model.apply({"params": fitted.params}, jnp.asarray(x, jnp.float32)))[:, 0]

    if (labels, method, seed) == (config.labels[-1], config.initializers[0], 0):
        run.save(fitted.params, method)
    return accuracies(log_odds, data) | {"believed": (1 / (1 + np.exp(-log_odds(GRID[:, None])))).tolist()}


def train_baseline(data: Data) -> Row:
    """Fits logistic regression to the same examples."""
    model = LogisticRegression().fit(data.train_x, data.train_y)
    believed = model.predict_proba(GRID[:, None])[:, 1]
    return accuracies(model.decision_function, data) | {"believed": believed.tolist()}


def accuracies(log_odds: Any, data: Data) -> Row:
    """Returns the accuracies on the training and the test set."""
    parts = {"train_accuracy": (data.train_x, data.train_y), "test_accuracy": (data.test_x, data.test_y)}
    return {name: float(np.mean((log_odds(x) > 0) == (y > 0.5))) for name, (x, y) in parts.items()}


def question(metric: str, labels: Labels, baseline: Row | float, claim: str, margin: float = 0.0) -> Question:
    """Asks whether each network is better than the baseline, or the same within the margin."""
    networks = tuple({"labels": labels, "method": name} for name in Config().initializers)
    return Question(metric, networks, (baseline,), expected="same" if margin else "better", margin=margin, claim=claim)


BEST, LINEAR = bayes_accuracy("dependent"), {"labels": "dependent", "method": BASELINE}
QUESTIONS = (
    question("test_accuracy", "random", 0.5, "From labels that are coin flips nothing is learnt", margin=0.01),
    question("train_accuracy", "random", 0.5, "What is right beyond half of the training examples is memory"),
    question("test_accuracy", "dependent", LINEAR, "A hidden layer learns a rule that logistic regression cannot"),
    question("test_accuracy", "dependent", BEST, "No classifier is better than the network", margin=0.01),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        recipe = Recipe(make_objective(make_model(config, config.initializers[0])), {"bce": 1.0}, cast=True)

        def evaluate(labels: Labels, method: str, seed: int) -> Row:
            if method == BASELINE:
                return train_baseline(make_data(config, labels, seed))
            return train_network(config, recipe, run, labels, method, seed)

        methods = (*config.initializers, BASELINE)
        results = run.all(product(labels=config.labels, method=methods, seed=range(config.seeds)), evaluate)
        figures: list[Any] = [
            *(lambda on=on: draw_beliefs(run.path, results, on, GRID, probability(on, GRID)) for on in config.labels),
            lambda: draw_learning(run, {labels: bayes_loss(labels) for labels in config.labels}),
        ]
        return run.report(results, QUESTIONS, notes=[worked_example], figures=figures)


if __name__ == "__main__":
    study.run(main, Config, __doc__)
