"""A task with few labels: the group of books that a passage is from; pretrained against from scratch and TF-IDF."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline

import lossfns
from experiments.data.bible import GROUPS
from experiments.data.load import DataConfig
from experiments.data.passages import Passages, few_shot, make_passages
from experiments.data.text import Corpus
from experiments.data.tokenizers import Tokenizer
from experiments.models.transformer import Classifier, TransformerConfig
from experiments.runs import Result, product, run_all
from train.errors import UsageError
from train.guard import BadSteps, skip_nonfinite
from train.loop import fit
from train.objective import Context, Objective, Term
from train.optimizers import OptimizerConfig, evaluation_params, make_optimizer
from train.parallel import data_parallel
from train.state import create_state
from train.step import build_train_step

METHODS = ("pretrained", "from scratch", "TF-IDF")
TESTS = ("new books", "same books")
Predict = Callable[[Passages], np.ndarray]


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """Fine-tuning with few labels.

    Raises:
        UsageError: budgets and steps differ in number.
    """

    budgets: tuple[int, ...] = (8, 32, 128)
    """Labels of each class."""
    seeds: int = 5
    """Draws of the labels, each with random weights of its own."""
    steps: tuple[int, ...] = (60, 100, 160)
    """Updates of a fine-tuning, one number for each of the budgets."""
    batch_size: int = 16
    """Passages in a batch."""
    seq_len: int = 64
    """Tokens of a passage, at most those of the pretraining."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, warmup=0.1, weight_decay=0.05, clip_norm=1.0)
    """How the classifier is trained."""
    max_test: int = 500
    """Most passages of each of the two test sets; an even sample of them."""

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.budgets):
            raise UsageError(
                f"--transfer.steps needs one number for each of the {len(self.budgets)} --transfer.budgets, "
                f"got {len(self.steps)}."
            )


def make_objective(model: Classifier) -> Objective:
    """Cross-entropy of the group."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        logits: Any = model.apply(
            {"params": params}, batch["tokens"], valid=batch["valid"], train=ctx.train, rngs={"dropout": ctx.key}
        )
        return {"loss_group": Term(lossfns.softmax_cross_entropy(logits, batch["label"]))}

    return objective


def transfer(
    config: TransferConfig,
    model_config: TransformerConfig,
    data_config: DataConfig,
    tokenizer: Tokenizer,
    corpora: Mapping[str, Corpus],
    pretrained: Any,
    workdir: Path,
) -> list[Result]:
    """Runs every method at every budget and seed; results already in the folder are not computed again.

    Args:
        config: budgets, seeds and fine-tuning.
        model_config: of the pretrained encoder.
        data_config: its sequence length is used.
        tokenizer: the tokenizer.
        corpora: `train` gives the labelled passages, and others of the same books to test on; `test` those of new
            books.
        pretrained: parameters with the subtree `encoder`.
        workdir: the run's folder; `transfer.json` keeps the results.

    Returns:
        One result for each run: {"method", "budget", "seed"} and, for each of `TESTS`, {"accuracy, TEST",
        "macro-F1, TEST"}.

    Raises:
        UsageError: a class has fewer passages than a budget.
    """
    seq_len = min(config.seq_len, data_config.seq_len)
    train, new_books = (make_passages(corpora[split], tokenizer, seq_len) for split in ("train", "test"))
    train, same_books = hold_out(train)
    tests = {"new books": sample(new_books, config.max_test), "same books": sample(same_books, config.max_test)}
    learn = make_learner(config, model_config, tokenizer.vocab_size, seq_len)
    steps = dict(zip(config.budgets, config.steps, strict=True))

    def run(budget: int, seed: int, method: str) -> dict[str, float]:
        shots = few_shot(train, budget, seed)
        if method == "TF-IDF":
            predict = tfidf(shots)
        else:
            predict = learn(shots, pretrained["encoder"] if method == "pretrained" else None, seed, steps[budget])
        return {
            f"{metric}, {name}": value
            for name, test in tests.items()
            for metric, value in score(predict(test), test.label).items()
        }

    grid = product(budget=config.budgets, seed=range(config.seeds), method=METHODS)
    return run_all(workdir / "transfer.json", grid, run, label="fine-tuning")


def make_learner(
    config: TransferConfig, model_config: TransformerConfig, vocab_size: int, seq_len: int
) -> Callable[[Passages, Any, int, int], Predict]:
    """Returns `(labelled, encoder, seed, steps) -> predict`, compiled once for all runs of as many steps.

    `encoder` is the pretrained parameters, or None to train from scratch. The recipe is the same for both.
    """
    model = Classifier(model_config, vocab_size, len(GROUPS))
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, seq_len), int), valid=jnp.ones((1, seq_len), bool)))

    @functools.cache
    def trainer(steps: int) -> tuple[Any, Any]:
        optimizer = make_optimizer(config.optimizer, steps)
        step = skip_nonfinite(build_train_step(make_objective(model), optimizer, loss_weights={"loss_group": 1.0}))
        # Few rows on purpose: one device, whatever the machine has.
        return optimizer, data_parallel(step, devices=jax.devices()[:1])

    @jax.jit
    def classify(params: Any, tokens: jax.Array, valid: jax.Array) -> jax.Array:
        logits: Any = model.apply({"params": params}, tokens, valid=valid)
        return logits.argmax(-1)

    def learn(labelled: Passages, encoder: Any, seed: int, steps: int) -> Predict:
        optimizer, train_step = trainer(steps)
        params = init(jax.random.key(seed))["params"]
        params = params if encoder is None else {**params, "encoder": encoder}
        state = create_state(params, optimizer, key=seed)
        batches = resampled(labelled, config.batch_size, seed)
        trained = evaluation_params(fit(state, train_step, batches, steps=steps, progress=False, bad_steps=BadSteps()))

        def predict(test: Passages) -> np.ndarray:
            rows = chunks(test, 4 * config.batch_size)
            return np.concatenate([classify(trained, *row) for row in rows])[: len(test)]

        return predict

    return learn


def hold_out(passages: Passages, part: int = 5) -> tuple[Passages, Passages]:
    """Every `part`-th passage of each class is kept apart: the rest, and these."""
    order = np.concatenate([np.arange(n) for n in np.bincount(passages.label)])
    rank = np.empty(len(passages), int)
    rank[np.argsort(passages.label, kind="stable")] = order
    apart = rank % part == part - 1
    return passages.take(np.flatnonzero(~apart)), passages.take(np.flatnonzero(apart))


def sample(passages: Passages, most: int) -> Passages:
    """An even sample of at most so many."""
    return passages.take(np.unique(np.linspace(0, len(passages) - 1, min(most, len(passages))).astype(int)))


def resampled(passages: Passages, batch_size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches; each pass takes every passage once, in a new order, and goes on into the next one."""
    rng = np.random.default_rng([seed, 1])
    queue = np.zeros(0, np.int64)
    while True:
        while len(queue) < batch_size:
            queue = np.concatenate([queue, rng.permutation(len(passages))])
        index, queue = queue[:batch_size], queue[batch_size:]
        yield {"tokens": passages.tokens[index], "valid": passages.valid[index], "label": passages.label[index]}


def chunks(passages: Passages, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens and validity in blocks of one size; the last is filled up with its first row."""
    for start in range(0, len(passages), size):
        index = np.arange(start, start + size)
        index = np.where(index < len(passages), index, start)
        yield passages.tokens[index], passages.valid[index]


def tfidf(labelled: Passages) -> Predict:
    """Bag-of-words baseline: word and word-pair TF-IDF with logistic regression."""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10.0, max_iter=1_000)
    ).fit(labelled.text, labelled.label)
    return lambda test: model.predict(test.text)


def score(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-F1."""
    return {
        "accuracy": float(np.mean(predictions == labels)),
        "macro-F1": float(f1_score(labels, predictions, average="macro")),
    }
