"""Fine-tuning with few labels: the head starts as a linear probe, then all parameters are trained.

A random head would distort the pretrained features first (Kumar et al. 2022, arXiv:2202.10054).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import f1_score

import lossfns
from experiments.baselines.linear import as_layer, fit_linear
from experiments.data.passages import Passages
from experiments.models.transformer import Classifier
from experiments.study import Recipe, Start, Training, TrainingConfig, axis, fit_model
from experiments.study.workdir import Folder
from train.errors import UsageError
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig, make_optimizer
from train.optimizers.names import Overrides


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Hyper-parameters of fine-tuning at each budget of labels."""

    steps: tuple[int, ...]
    """Number of updates, one for each budget."""
    probe_c: tuple[float, ...]
    """scikit-learn's C of the logistic regression that initialises the head, one for each budget; a smaller C means
    stronger regularisation."""
    rates: tuple[float, ...]
    """Factors of the optimizer's learning rate, one for each budget."""
    embedding_rate: float = 1.0
    """Factor of the learning rate for the token embeddings."""


@dataclasses.dataclass(frozen=True)
class FewShotConfig:
    """A task with few labels.

    The hyper-parameters, one set for a pretrained encoder and one for a random encoder, were chosen on the validation
    books and on training-book passages that are in no test set.

    Raises:
        UsageError: The number of values differs from the number of budgets, a `probe_c` is not positive, or a rate is
            negative.
    """

    budgets: tuple[int, ...] = (8, 32, 128)
    """Labels per class."""
    seeds: int = axis(5)
    """Number of draws of the labels; each has its own random weights."""
    pretrained: Tuning = Tuning(steps=(30, 80, 200), probe_c=(0.003, 0.03, 0.1), rates=(0.3, 1.0, 1.0))
    """For a pretrained encoder."""
    scratch: Tuning = Tuning(steps=(30, 60, 120), probe_c=(0.01, 0.03, 0.1), rates=(0.3, 1.0, 1.0), embedding_rate=10.0)
    """For a random encoder."""
    training: Training = TrainingConfig(
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=0.1, weight_decay=0.05, clip_norm=1.0),
        steps=0,
        batch_size=16,
        devices=1,  # few rows on purpose
        keep_final=False,
    )
    """Training of the classifier; a batch consists of passages, and the tuning sets the steps."""
    seq_len: int = 64
    """Tokens per passage, at most the sequence length of pretraining."""
    max_test: int = 500
    """Maximum number of passages in each of the two test sets, evenly sampled."""

    def __post_init__(self) -> None:
        for name, tuning in {"pretrained": self.pretrained, "scratch": self.scratch}.items():
            option = f"--transfer.{name}"
            for field in ("steps", "probe_c", "rates"):
                given = len(getattr(tuning, field))
                if given != len(self.budgets):
                    raise UsageError(
                        f"{option}.{field.replace('_', '-')} needs one number for each of the {len(self.budgets)} "
                        f"--transfer.budgets, got {given}."
                    )
            if min(tuning.probe_c, default=1) <= 0:
                raise UsageError(f"{option}.probe-c must be positive, but it is {tuning.probe_c}.")
            if min(tuning.rates, default=0) < 0:
                raise UsageError(f"{option}.rates must not be negative, but they are {tuning.rates}.")


def make_objective(model: Classifier) -> Objective:
    """Returns the cross-entropy of the class."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        logits: Any = model.apply(
            {"params": params}, batch["tokens"], valid=batch["valid"], train=ctx.train, rngs={"dropout": ctx.key}
        )
        return {"loss_group": term(lossfns.softmax_cross_entropy, logits, batch["label"])}

    return objective


Predict = Callable[[Passages], np.ndarray]
Learn = Callable[[Passages, int, int, Folder], Predict]


def make_learner(config: FewShotConfig, model: Classifier, seq_len: int, encoder: Callable[[], Any] | None) -> Learn:
    """Returns `(labelled, budget, seed, folder) -> predict`, compiled once for all seeds of a budget.

    Args:
        config: The hyper-parameters.
        model: The encoder with a linear head.
        seq_len: Tokens per passage.
        encoder: Returns the pretrained parameters; None trains from scratch.
    """
    tuning = config.scratch if encoder is None else config.pretrained
    objective = make_objective(model)
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, seq_len), int), valid=jnp.ones((1, seq_len), bool)))

    @functools.partial(jax.jit, static_argnums=0)
    def apply(method: str, params: Any, tokens: jax.Array, valid: jax.Array) -> jax.Array:
        return cast(jax.Array, model.apply({"params": params}, tokens, valid=valid, method=method))

    def of_all(method: str, params: Any, passages: Passages) -> np.ndarray:
        rows = [apply(method, params, *row) for row in chunks(passages, 64)]
        return np.concatenate(rows)[: len(passages)]

    @functools.cache
    def recipe(number: int) -> Recipe:
        rate = config.training.optimizer.learning_rate * tuning.rates[number]
        overrides: Overrides = {"^encoder/embedding/": {"rate_factor": tuning.embedding_rate}}
        overrides = {**config.training.optimizer.overrides, **overrides}
        optimizer = dataclasses.replace(config.training.optimizer, learning_rate=rate, overrides=overrides)
        return Recipe(objective, {"loss_group": 1.0}, make_optimizer(optimizer, tuning.steps[number]))

    def learn(labelled: Passages, budget: int, seed: int, folder: Folder) -> Predict:
        number = config.budgets.index(budget)
        params = init(jax.random.key(seed))["params"]
        params = params if encoder is None else {**params, "encoder": encoder()}
        features = of_all("features", params, labelled)
        params["head"] = as_layer(fit_linear(features, labelled.label, tuning.probe_c[number]))
        fitted = fit_model(
            recipe(number),
            Start(params, seed),
            resampled(labelled, config.training.batch_size, seed),
            training=dataclasses.replace(config.training, steps=tuning.steps[number]),
            folder=folder,
        )
        return lambda test: of_all("__call__", fitted.params, test).argmax(-1)

    return learn


def hold_out(passages: Passages, part: int = 5) -> tuple[Passages, Passages]:
    """Holds out every `part`-th passage of each class; returns the rest and the held-out passages."""
    order = np.concatenate([np.arange(n) for n in np.bincount(passages.label)])
    rank = np.empty(len(passages), int)
    rank[np.argsort(passages.label, kind="stable")] = order
    apart = rank % part == part - 1
    return passages.take(np.flatnonzero(~apart)), passages.take(np.flatnonzero(apart))


def sample(passages: Passages, most: int) -> Passages:
    """Returns an evenly spaced sample of limited size."""
    return passages.take(np.unique(np.linspace(0, len(passages) - 1, min(most, len(passages))).astype(int)))


def resampled(passages: Passages, batch_size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields endless batches; each pass has every passage once in a new order, and batches may span two passes."""
    rng = np.random.default_rng([seed, 1])
    queue = np.zeros(0, np.int64)
    while True:
        while len(queue) < batch_size:
            queue = np.concatenate([queue, rng.permutation(len(passages))])
        index, queue = queue[:batch_size], queue[batch_size:]
        yield {"tokens": passages.tokens[index], "valid": passages.valid[index], "label": passages.label[index]}


def chunks(passages: Passages, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields tokens and validity in blocks of equal size; the last is padded with its first row."""
    for start in range(0, len(passages), size):
        index = np.arange(start, start + size)
        index = np.where(index < len(passages), index, start)
        yield passages.tokens[index], passages.valid[index]


def score(predictions: Sequence[int] | np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns accuracy and macro-F1."""
    return {
        "accuracy": float(np.mean(predictions == labels)),
        "macro_f1": float(f1_score(labels, predictions, average="macro")),
    }
