"""The tutorial network 1-10-1, on labels that mean nothing and on labels that do.

What is studied: a network of one input, ten ReLU units and a sigmoid, trained by binary cross-entropy and Adam at 1e-3
for 100 epochs, is a common first example, and it is often shown on labels drawn without a look at the inputs. Nothing
can then be learnt: an honest held-out accuracy is 0.5 within the noise of the test set, and only the training accuracy
creeps up. The same network is trained on labels that depend on the input (the more likely 1 the farther from 0), where
the best possible accuracy is known. Logistic regression is the baseline; it cannot see that rule at all, because the
rule has no slope. Three initialisations, each with zero biases: Xavier (Glorot and Bengio 2010), He (He et al. 2015,
arXiv:1502.01852) and Gaussian of standard deviation 0.02.

    python -m experiments.toy_classifier

Expected: on random labels, training accuracy 0.526 ± 0.012 and held-out accuracy 0.500 ± 0.004 (10 runs, Xavier); on
labels that depend on the input, held-out 0.862 ± 0.003 from every start, where 0.863 is the best possible and logistic
regression gets 0.52 ± 0.10. 1.3 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression

import lossfns
from experiments import cli
from experiments.models.mlp import MLP
from experiments.runs import Result, gather_metrics, mean_and_spread_of, mean_curves, product, run_all, train_run
from experiments.runs import values_of as values
from train import plots
from train.guard import skip_nonfinite
from train.initializers import make_initializer
from train.logging import Image, Section, Table, write_report, write_summary
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig, evaluation_params, make_optimizer
from train.parallel import data_parallel
from train.places import inside
from train.state import create_state
from train.step import build_train_step

Labels = Literal["random", "dependent"]
BASELINE = "logistic regression"
STEEPNESS, MIDDLE = 10.0, 0.5
"""The rule of the dependent labels: p(1 | x) = sigmoid(STEEPNESS * (|x| - MIDDLE)), x uniform in -1 .. 1."""
GRID = np.linspace(-1, 1, 81)
"""Where the learnt probability is drawn."""


@dataclasses.dataclass(frozen=True)
class Config(cli.StudyConfig):
    """A network of 31 parameters."""

    labels: tuple[Labels, ...] = ("random", "dependent")
    """random: coin flips, as published; dependent: more likely 1 the farther the input is from 0."""
    initializers: tuple[str, ...] = ("xavier_uniform", "he_normal", "gaussian")
    """How the weights start; the biases start at 0."""
    seeds: int = 10
    """Runs of each kind, each with data of its own."""
    train_examples: int = 1_000
    """Training examples of a run."""
    test_examples: int = 10_000
    """Held-out examples of a run."""
    epochs: int = 100
    """Passes over the training examples."""
    batch_size: int | None = 32
    """Examples in a batch; the last of an epoch may have fewer. None: all of them in one batch."""
    hidden: int = 10
    """Hidden units."""
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=1e-3, schedule="constant")
    """How the network is trained."""

    def fast(self) -> Config:
        """The same path on less of everything."""
        return dataclasses.replace(self, seeds=2, train_examples=70, test_examples=200, epochs=3)


@dataclasses.dataclass(frozen=True)
class Data:
    """Inputs [N, 1] and labels [N] of both parts."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def probability(labels: Labels, x: np.ndarray) -> np.ndarray:
    """p(1 | x).

    >>> probability("dependent", np.array([-0.5, 0.5])).tolist()
    [0.5, 0.5]
    """
    return np.full(x.shape, 0.5) if labels == "random" else 1 / (1 + np.exp(-STEEPNESS * (np.abs(x) - MIDDLE)))


def bayes_accuracy(labels: Labels) -> float:
    """The accuracy of the best classifier there is: the mean over x of max(p, 1 - p).

    >>> bayes_accuracy("random"), round(bayes_accuracy("dependent"), 3)
    (0.5, 0.863)
    """
    centres = (np.arange(100_000) + 0.5) / 100_000
    p = probability(labels, centres)
    return float(np.mean(np.maximum(p, 1 - p)))


def make_data(config: Config, labels: Labels, seed: int) -> Data:
    """Draws the examples of one run."""
    rng = np.random.default_rng([config.seed, seed])
    sizes = config.train_examples, config.test_examples
    xs = [rng.uniform(-1, 1, (n, 1)).astype(np.float32) for n in sizes]
    ys = [(rng.random(len(x)) < probability(labels, x[:, 0])).astype(np.float32) for x in xs]
    return Data(xs[0], ys[0], xs[1], ys[1])


def epochs(data: Data, batch_size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches {"x" [B, 1], "y" [B], "valid" [B]}, every epoch in a new order.

    The last batch of an epoch is filled up with rows that are not valid.
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
    """The network; its output is the log-odds, and the sigmoid is in the loss."""
    return MLP((config.hidden, 1), make_initializer(initializer))


def make_objective(model: MLP) -> Objective:
    """Binary cross-entropy and accuracy."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        logits: Any = model.apply({"params": params}, batch["x"])
        logits, valid = logits[:, 0], batch["valid"]
        return {
            "bce": term(lossfns.sigmoid_cross_entropy, logits, batch["y"], where=valid),
            "accuracy": Term((logits > 0) == (batch["y"] > 0.5), valid),
        }

    return objective


def make_learner(config: Config) -> Callable[[Data, str, int, Path], Result]:
    """Returns `(data, initializer, seed, folder) -> result`, compiled once for all runs.

    The result has the accuracies and what the network believes over the inputs.
    """
    batch_size = min(config.batch_size or config.train_examples, config.train_examples)
    per_epoch = -(-config.train_examples // batch_size)
    steps = config.epochs * per_epoch
    optimizer = make_optimizer(config.optimizer, steps)
    models = {name: make_model(config, name) for name in config.initializers}
    objective = make_objective(models[config.initializers[0]])  # it is given the parameters
    # One device, whatever the machine has: there is nothing to split.
    body = skip_nonfinite(build_train_step(objective, optimizer, loss_weights={"bce": 1.0}))
    step = data_parallel(body, devices=jax.devices()[:1])

    def learn(data: Data, initializer: str, seed: int, folder: Path) -> Result:
        model = models[initializer]
        key = jax.random.fold_in(jax.random.key(config.seed), seed)
        state = create_state(model.init(key, jnp.zeros((1, 1)))["params"], optimizer, key=key)
        batches = epochs(data, batch_size, seed)
        label = "network" if config.dry_run else ""  # there are too many to show the progress of each
        state = train_run(folder, state, step, batches, steps=steps, log_every=per_epoch, label=label, options=config)
        params = evaluation_params(state)

        def log_odds(x: np.ndarray) -> np.ndarray:
            return np.asarray(model.apply({"params": params}, jnp.asarray(x, jnp.float32)))[:, 0]

        believed = 1 / (1 + np.exp(-log_odds(GRID[:, None])))
        return accuracies(log_odds, data) | {"believed": believed.tolist()}

    return learn


def train_baseline(data: Data) -> Result:
    """Logistic regression on the same examples."""
    model = LogisticRegression().fit(data.train_x, data.train_y)
    believed = model.predict_proba(GRID[:, None])[:, 1]
    return accuracies(model.decision_function, data) | {"believed": believed.tolist()}


def accuracies(log_odds: Any, data: Data) -> Result:
    """Accuracy on both parts."""
    parts = {"train_accuracy": (data.train_x, data.train_y), "test_accuracy": (data.test_x, data.test_y)}
    return {name: float(np.mean((log_odds(x) > 0) == (y > 0.5))) for name, (x, y) in parts.items()}


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a binomial probability (Wilson 1927).

    >>> [round(edge, 4) for edge in wilson_interval(0.5, 100)]
    [0.4038, 0.5962]
    """
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return centre - half, centre + half


def report(config: Config, results: list[Result], workdir: Path) -> dict[str, Any]:
    """Writes plots and `report.md`, prints the closing table; returns the summary."""
    methods = [*config.initializers, BASELINE]
    sections: list[Section] = []
    rows: list[list[str]] = []
    summary: dict[str, Any] = {}
    for labels in config.labels:
        bayes = bayes_accuracy(labels)
        table = []
        for method in methods:
            test = values(results, "test_accuracy", labels=labels, method=method)
            # Each run has held-out examples of its own, so they may be pooled.
            low, high = wilson_interval(float(np.mean(test)), config.test_examples * len(test))
            table.append(
                [
                    method,
                    mean_and_spread_of(results, "train_accuracy", labels=labels, method=method),
                    mean_and_spread_of(results, "test_accuracy", labels=labels, method=method),
                    f"{low:.3f} to {high:.3f}",
                ]
            )
            rows.append([f"{labels} labels, {method}", *table[-1][1:], f"{bayes:.3f}"])
        summary[labels] = {"bayes_accuracy": bayes, "runs": [r for r in results if r["labels"] == labels]}
        sections.append(_section(config, labels, bayes, table, results, methods, workdir))
    write_report(workdir, f"The network 1-{config.hidden}-1", sections)
    columns = ["", "training accuracy", "held-out accuracy", "95 % interval", "best possible"]
    cli.finish(workdir, f"Network 1-{config.hidden}-1, {config.seeds} runs each", columns, rows)
    return summary


def _section(
    config: Config,
    labels: Labels,
    bayes: float,
    table: list[list[str]],
    results: list[Result],
    methods: list[str],
    workdir: Path,
) -> Section:
    folder = workdir / "plots"
    cells: Mapping[str, Mapping[str, list[float]]] = {
        method: {
            "training": values(results, "train_accuracy", labels=labels, method=method),
            "held out": values(results, "test_accuracy", labels=labels, method=method),
        }
        for method in methods
    }
    plots.bars(
        folder / f"accuracy_{labels}.png",
        cells,
        ylabel="accuracy",
        title=f"Accuracy on {labels} labels",
        limits=(0.0, 1.0),
        reference=("best possible", bayes),
    )
    believed = {m: np.transpose(values(results, "believed", labels=labels, method=m)) for m in methods}
    plots.lines_with_spread(
        folder / f"believed_{labels}.png",
        GRID.tolist(),
        {"truth": probability(labels, GRID)[:, None], **believed},
        xlabel="input x",
        ylabel="p(1 | x)",
        title=f"What is learnt of {labels} labels",
        limits=(0.0, 1.0),
    )
    curves = {
        method: mean_curves(
            [run_folder(workdir, labels, method, seed) for seed in range(config.seeds)],
            "train",
            {"bce": "cross-entropy (nats)", "accuracy": "accuracy of the last batch"},
        )
        for method in config.initializers
    }
    plots.learning_curves(folder / f"curves_{labels}.png", curves)
    means = [np.mean(values(results, "test_accuracy", labels=labels, method=m)) for m in methods]
    trained = [np.mean(values(results, "train_accuracy", labels=labels, method=m)) for m in methods]
    gap = f"Training accuracy {min(trained):.3f} to {max(trained):.3f}, held-out {min(means):.3f} to {max(means):.3f}."
    text = {
        "random": "The labels are coin flips, so 0.5 is the truth about every classifier here, and its held-out "
        "accuracy is 0.5 but for the noise of the test set. What is above 0.5 on the training examples is memory.",
        "dependent": f"A label is 1 with probability sigmoid({STEEPNESS:g} (|x| - {MIDDLE:g})); the best classifier "
        "there is knows that rule. Logistic regression sees only whether x is large, and the rule has no slope.",
    }[labels]
    scope = (
        f"{config.seeds} runs, each with {config.train_examples:,} training and {config.test_examples:,} held-out "
        f"examples of its own, {config.epochs} epochs. Mean ± standard deviation over runs; the interval is that of "
        "the pooled held-out examples, for these very classifiers."
    )
    return Section(
        f"{labels.capitalize()} labels: the best possible accuracy is {bayes:.3f}",
        [
            text,
            scope,
            Table(["", "training accuracy", "held-out accuracy", "95 % interval"], table),
            gap,
            Image(f"plots/accuracy_{labels}.png", "Accuracy on training and held-out examples, a dot for each run"),
            Image(f"plots/believed_{labels}.png", "Learnt probability of the label 1: mean and standard deviation"),
            Image(f"plots/curves_{labels}.png", "Training, mean over runs, at the end of each epoch"),
        ],
    )


def run_folder(workdir: Path, labels: str, method: str, seed: int) -> Path:
    """The folder of one network."""
    return inside(workdir / "runs", f"{labels}-{method}-{seed}")


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary, of which a dry run has none."""
    workdir = cli.start(config, "toy_classifier")
    learn = make_learner(config)
    if config.dry_run:
        learn(make_data(config, config.labels[0], 0), config.initializers[0], 0, workdir)
        return {}

    def run(labels: Labels, method: str, seed: int) -> Result:
        data = make_data(config, labels, seed)
        if method == BASELINE:
            return train_baseline(data)
        return learn(data, method, seed, run_folder(workdir, labels, method, seed))

    grid = product(labels=config.labels, method=(*config.initializers, BASELINE), seed=range(config.seeds))
    results = run_all(workdir / "results.json", grid, run, label="classifiers")
    networks = [tuple(r[k] for k in ("labels", "method", "seed")) for r in results if r["method"] != BASELINE]
    gather_metrics(workdir, {"-".join(map(str, names)): run_folder(workdir, *names) for names in networks})
    summary = report(config, results, workdir)
    write_summary(workdir, summary)
    return summary


if __name__ == "__main__":
    cli.run(main, Config, "toy_classifier", __doc__)
