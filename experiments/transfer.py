"""A task with few labels: the group of books that a passage is from; pretrained against from scratch and TF-IDF."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
from experiments.probe import as_layer, fit_probe
from experiments.runs import Result, product, run_all
from train.errors import UsageError
from train.guard import BadSteps, skip_nonfinite
from train.loop import fit
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig, evaluation_params, make_optimizer, make_schedule
from train.optimizers.names import SCHEDULE_FREE, SELF_RATED
from train.parallel import data_parallel
from train.state import create_state
from train.step import build_train_step

METHODS = ("pretrained", "from scratch", "TF-IDF")
TESTS = ("new books", "same books")
Predict = Callable[[Passages], np.ndarray]
Learner = Callable[[Passages, int, int], Predict]


class Table(NamedTuple):
    """State of `scale_by_table`: updates made so far, and the factor of each."""

    made: jax.Array
    rates: jax.Array


def scale_by_table(length: int) -> optax.GradientTransformation:
    """Multiplies each update by a number that stands in the state, so that it can differ without compiling anew."""

    def update(updates: Any, state: Table, params: Any = None) -> tuple[Any, Table]:
        scaled = jax.tree.map(lambda x: x * state.rates[state.made], updates)
        return scaled, state._replace(made=state.made + 1)

    return optax.GradientTransformation(lambda _: Table(jnp.zeros((), jnp.int32), jnp.zeros(length)), update)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an encoder is fine-tuned."""

    steps: tuple[int, ...]
    """Updates, one number for each of the budgets."""
    probe_c: tuple[float, ...]
    """scikit-learn's C of the logistic regression as which the head starts, likewise; the smaller, the more it is held
    back."""
    rates: tuple[float, ...]
    """Learning rate as a multiple of the optimizer's, likewise."""
    embedding_rate: float = 1.0
    """Learning rate of the token embeddings as a multiple of that of everything else."""


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """Fine-tuning with few labels.

    The head starts as a linear probe, logistic regression on what the encoder makes of the labelled passages, and then
    all is trained (Kumar et al. 2022, arXiv:2202.10054): a head that knows nothing would first have the encoder change
    for its sake. The recipes, one for a pretrained encoder and one for a random one, were chosen on the
    validation books and on passages of the training books that are in no test.

    Raises:
        UsageError: a recipe's numbers are not one for each budget, a `probe_c` is not positive, a rate is negative, or
            an update of the optimizer is not in proportion to the rate.
    """

    budgets: tuple[int, ...] = (8, 32, 128)
    """Labels of each class."""
    seeds: int = 5
    """Draws of the labels, each with random weights of its own."""
    pretrained: Recipe = Recipe(steps=(30, 80, 200), probe_c=(0.003, 0.03, 0.1), rates=(0.3, 1.0, 1.0))
    """For a pretrained encoder."""
    scratch: Recipe = Recipe(steps=(30, 60, 120), probe_c=(0.01, 0.03, 0.1), rates=(0.3, 1.0, 1.0), embedding_rate=10.0)
    """For a random encoder."""
    batch_size: int = 16
    """Passages in a batch."""
    seq_len: int = 64
    """Tokens of a passage, at most those of the pretraining."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, warmup=0.1, weight_decay=0.05, clip_norm=1.0)
    """How the classifier is trained."""
    max_test: int = 500
    """Most passages of each of the two test sets; an even sample of them."""

    def __post_init__(self) -> None:
        for name, recipe in {"pretrained": self.pretrained, "scratch": self.scratch}.items():
            option = f"--transfer.{name}"
            for field in ("steps", "probe_c", "rates"):
                given = len(getattr(recipe, field))
                if given != len(self.budgets):
                    raise UsageError(
                        f"{option}.{field.replace('_', '-')} needs one number for each of the {len(self.budgets)} "
                        f"--transfer.budgets, got {given}."
                    )
            if min(recipe.probe_c, default=1) <= 0:
                raise UsageError(f"{option}.probe-c must be positive, but it is {recipe.probe_c}.")
            if min(recipe.rates, default=0) < 0:
                raise UsageError(f"{option}.rates must not be negative, but they are {recipe.rates}.")
        optimizer = self.optimizer
        unfit = {
            "name": optimizer.name in (*SCHEDULE_FREE, *SELF_RATED),
            "proximal-l1": optimizer.proximal_l1 != 0,
            "plateau-factor": optimizer.plateau_factor is not None,
            "lookahead-every": optimizer.lookahead_every is not None,
        }
        for name, is_unfit in unfit.items():
            if is_unfit:
                raise UsageError(
                    f"--transfer.optimizer.{name} is {getattr(optimizer, name.replace('-', '_'))}, but fine-tuning "
                    "needs updates in proportion to the learning rate, as those of adamw are: leave it at its default."
                )


def make_objective(model: Classifier) -> Objective:
    """Cross-entropy of the group."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        logits: Any = model.apply(
            {"params": params}, batch["tokens"], valid=batch["valid"], train=ctx.train, rngs={"dropout": ctx.key}
        )
        return {"loss_group": term(lossfns.softmax_cross_entropy, logits, batch["label"])}

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
    learner = functools.partial(make_learner, config, model_config, tokenizer.vocab_size, seq_len)
    learners: dict[str, Learner] = {
        "pretrained": learner(pretrained["encoder"]),
        "from scratch": learner(None),
        "TF-IDF": lambda shots, seed, budget: tfidf(shots),
    }

    def run(budget: int, seed: int, method: str) -> dict[str, float]:
        predict = learners[method](few_shot(train, budget, seed), seed, config.budgets.index(budget))
        return {
            f"{metric}, {name}": value
            for name, test in tests.items()
            for metric, value in score(predict(test), test.label).items()
        }

    grid = product(budget=config.budgets, seed=range(config.seeds), method=METHODS)
    return run_all(workdir / "transfer.json", grid, run, label="fine-tuning")


def make_learner(
    config: TransferConfig, model_config: TransformerConfig, vocab_size: int, seq_len: int, encoder: Any
) -> Learner:
    """Returns `(labelled, seed, number of the budget) -> predict`, compiled once for all runs.

    `encoder` is the pretrained parameters, or None to train from scratch.
    """
    model = Classifier(model_config, vocab_size, len(GROUPS))
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, seq_len), int), valid=jnp.ones((1, seq_len), bool)))
    recipe = config.scratch if encoder is None else config.pretrained
    rates = {"^encoder/embedding/": recipe.embedding_rate}
    # The learning rate is a factor in the state, for one program to serve all numbers of steps.
    plain = dataclasses.replace(
        config.optimizer, learning_rate=1.0, schedule="constant", warmup=0, rate_of=config.optimizer.rate_of | rates
    )
    optimizer = optax.chain(make_optimizer(plain, 1), scale_by_table(max(recipe.steps)))
    step = skip_nonfinite(build_train_step(make_objective(model), optimizer, loss_weights={"loss_group": 1.0}))
    # Few rows on purpose: one device, whatever the machine has.
    train_step = data_parallel(step, devices=jax.devices()[:1])

    @functools.partial(jax.jit, static_argnums=0)
    def apply(method: str, params: Any, tokens: jax.Array, valid: jax.Array) -> jax.Array:
        return cast(jax.Array, model.apply({"params": params}, tokens, valid=valid, method=method))

    def of_all(method: str, params: Any, passages: Passages) -> np.ndarray:
        rows = [apply(method, params, *row) for row in chunks(passages, 64)]
        return np.concatenate(rows)[: len(passages)]

    def learn(labelled: Passages, seed: int, budget: int) -> Predict:
        steps = recipe.steps[budget]
        params = init(jax.random.key(seed))["params"]
        params = params if encoder is None else {**params, "encoder": encoder}
        features = of_all("features", params, labelled)
        params["head"] = as_layer(fit_probe(features, labelled.label, recipe.probe_c[budget]))
        state = create_state(params, optimizer, key=seed)
        first, table = state.opt_state
        schedule = jax.vmap(make_schedule(config.optimizer, steps))(jnp.arange(max(recipe.steps)))
        table = table._replace(rates=recipe.rates[budget] * schedule)
        state = state.replace(opt_state=(first, table))
        batches = resampled(labelled, config.batch_size, seed)
        state = fit(state, train_step, batches, steps=steps, progress=False, bad_steps=BadSteps())
        trained = evaluation_params(state)
        return lambda test: of_all("__call__", trained, test).argmax(-1)

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
