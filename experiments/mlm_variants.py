"""Variants of masked language modelling: tasks on pairs of sentences, remedies for rare tokens, whole words.

What is asked of small encoders on the World English Bible (public domain), tested on books that they never saw:

- Is next-sentence prediction (Devlin et al. 2019, arXiv:1810.04805) easy and a matter of shared words, and sentence
  order (Lan et al. 2019, arXiv:1909.11942) not; does either help a probe for the group of a book? Pairs are whole
  sentences, chosen so that neither length nor punctuation tells the answer; TF-IDF says how far words go.
- Do weights by frequency (Jiang et al. 2019, arXiv:1902.09191) or the unlikelihood of frequent tokens (Welleck et al.
  2019, arXiv:1908.04319; Li et al. 2020, arXiv:1911.03860) help the rare ones, and what do they cost?
- How far may evidence be: a masked token of which the text holds one copy, against the same with both masked.
- With `--longer`: do masks of whole words help the probe?

Each method has the learning rate, of at least 5, with the lowest loss of its own on validation books, in shorter runs
of another seed. The weight of the pair's loss, the power of the weights, and alpha are not tuned.

    python -m experiments.mlm_variants
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments import study
from experiments.data import orders
from experiments.data.load import DataConfig
from experiments.data.orders import OrderText, Task, eval_batches
from experiments.evaluation.groups import mean_representations, probe_groups
from experiments.evaluation.masked import EDGES, draw_distance, draw_frequency, likeliest, measure_network
from experiments.evaluation.pair_words import pairs_by_words
from experiments.models.paired import PairedEncoder, initial_net
from experiments.models.transformer import TransformerConfig
from experiments.study import Fitted, Question, Recipe, Row, Start, Training, TrainingConfig, axis, product
from experiments.study.many import Bench, methods, search_rates
from experiments.study.own_rate import by_rate, with_rate
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig


class Arm(NamedTuple):
    """A way to pretrain: what is done to pairs and asked of them, the loss of masked tokens, and what is masked."""

    task: Task = "none"
    loss: Literal["plain", "weighted", "unlikely"] = "plain"
    whole_words: bool = False


PLAIN, NSP, SOP, WEIGHTED, UNLIKELY = "MLM", "MLM + NSP", "MLM + SOP", "frequency-weighted", "unlikelihood"
WORDS, UNTRAINED, TFIDF = "whole words", "untrained encoder", "TF-IDF"
ARMS = {PLAIN: Arm(), NSP: Arm("next"), SOP: Arm("order"), WEIGHTED: Arm(loss="weighted")}
ARMS |= {UNLIKELY: Arm(loss="unlikely"), WORDS: Arm(whole_words=True)}
BY_WORDS = {f"{name}, {task}": (name, task) for name in ("word overlap", "words") for task in ("next", "order")}

MUON = OptimizerConfig(name="muon", learning_rate=1.0, warmup=0.05, weight_decay=0.05, b2=0.98, clip_norm=1.0)
PENALTIES = {8: 0.003, 128: 0.1}
"""Labels a class, and C of the probe, as `bert_pretrain` chose it on validation books."""


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Small masked encoders."""

    longer: bool = axis(False)
    """Also mask whole words."""
    seeds: int = axis(5)
    """Networks of each method, of other weights and another order of the data."""
    data: DataConfig = DataConfig(vocab_size=2048)
    """The text and its tokens."""
    model: TransformerConfig = TransformerConfig(width=64, depth=2)
    """The encoder."""
    training: Training = TrainingConfig(MUON, 400, batch_size=16, devices=1, log_every=10, keep_final=False)
    """Pretraining; the learning rate here multiplies those tried."""
    tuning_steps: int = 60
    """Updates of the runs that choose a learning rate."""
    rate: float = 2e-2
    """The learning rate around which they are tried."""
    power: float = 0.5
    """How strongly `frequency_weighted` prefers rare tokens."""
    alpha: float = 0.5
    """Weight of the unlikelihood of frequent tokens."""

    def fast(self) -> Config:
        """The same path on less of everything."""
        training = dataclasses.replace(self.training, steps=4, log_every=2)
        model = TransformerConfig(width=16, depth=1)
        return dataclasses.replace(self, model=model, training=training, tuning_steps=2, seeds=2)


def make_data(config: Config) -> OrderText:
    """The pairs of each split; the tokenizer is trained on the training split only."""
    return orders.read_order_text(config.data)


def make_model(config: Config, vocab_size: int) -> PairedEncoder:
    """The network of all methods."""
    return PairedEncoder(config.model, vocab_size)


def make_objective(config: Config, method: str, counts: np.ndarray) -> Objective:
    """The losses of a method; its parameters are those of `with_rate`."""
    arm, model, capacity = ARMS[method], make_model(config, len(counts)), orders.most_masked(config.data)
    frequent = jnp.asarray(counts >= EDGES[-1])

    def of_masked(logits: Any, labels: Any, where: Any) -> Any:
        if arm.loss == "weighted":
            return term(
                lossfns.frequency_weighted, logits, labels, jnp.asarray(counts), power=config.power, where=where
            )
        if arm.loss == "unlikely":
            avoid = jnp.broadcast_to(frequent, logits.shape)
            return term(lossfns.unlikelihood, logits, labels, avoid, alpha=config.alpha, where=where)
        return term(lossfns.masked_lm, logits, labels, where=where)

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        masked, positions = jax.lax.top_k(batch["masked"].astype(jnp.int32), capacity)
        masked, labels = masked > 0, jnp.take_along_axis(batch["labels"], positions, axis=1)
        places = {"valid": batch["valid"], "segments": batch["segments"], "positions": positions}
        out: Any = model.apply({"params": params["net"]}, batch["tokens"], **places)
        logits, pair = out
        terms = {"mlm": of_masked(logits, labels, masked), "masked_accuracy": Term(logits.argmax(-1) == labels, masked)}
        if arm.task != "none":
            loss = lossfns.next_sentence if arm.task == "next" else lossfns.sentence_order
            terms["pair"] = term(loss, pair, batch["answer"])
            terms["pair_accuracy"] = Term((pair.argmax(-1) == 0) == (batch["answer"] == 1))
        return terms

    return objective


def source(config: Config, data: OrderText, method: str, split: str, seed: int = 0) -> orders.PairSource:
    """The batches of a method."""
    arm, sizes = ARMS[method], (config.data.seq_len, config.data.mask_rate, config.seed + seed)
    return orders.PairSource(data.pairs[split], arm.task, *sizes, data.starts, arm.whole_words)


@dataclasses.dataclass(frozen=True)
class Lab:
    """What the runs share; `recipes` gives that of a method and a number of steps, which is compiled once."""

    config: Config
    data: OrderText
    bench: Bench
    recipes: Any

    def initial(self, seed: int) -> Any:
        """Random parameters, the same for all methods."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), seed)
        return initial_net(make_model(self.config, len(self.data.counts)), self.config.data.seq_len, key)

    def train(self, method: str, seed: int, rate: float, steps: int, folder: Any) -> Fitted:
        """Trains a network."""
        training = dataclasses.replace(self.config.training, steps=steps)
        start = Start(with_rate(self.initial(seed), rate), self.config.seed + seed)
        batches = orders.train_batches(source(self.config, self.data, method, "train", seed), training.batch_size)
        return study.fit_model(self.recipes(method, steps), start, batches, training=training, folder=folder)

    def tune(self, tuned: str) -> list[Row]:
        """Tries the learning rates of a method by its own loss on validation books."""
        config, folder = self.config, self.bench.run.folder(tuned=tuned)
        held_out = eval_batches(source(config, self.data, tuned, "validation"))

        def losses(rates: list[float]) -> list[float]:
            fits = (self.train(tuned, 1_000, rate, config.tuning_steps, folder) for rate in rates)
            return [fitted.evaluate(held_out)["loss"] for fitted in fits]

        return [{"rate": rate, "loss": loss} for rate, loss in search_rates(losses, config.rate).items()]

    def evaluate(self, method: str, seed: int) -> Row:
        """One network or baseline."""
        config, data, counts = self.config, self.data, self.data.counts
        probe = functools.partial(probe_groups, data.passages, PENALTIES, seed)
        if method == TFIDF:
            return probe(None)
        if method in BY_WORDS:
            name, task = BY_WORDS[method]
            arm = NSP if task == "next" else SOP
            train, test = (eval_batches(source(config, data, arm, *of)) for of in (("train", 1 + seed), ("test", 0)))
            return {"pair_accuracy": pairs_by_words(train, test, len(counts))[name]}
        model, net = make_model(config, len(counts)), self.initial(seed)
        if method != UNTRAINED:
            rate, folder = self.bench.rate(method, config.rate), self.bench.run.folder(method=method, seed=seed)
            fitted = self.train(method, seed, rate, config.training.steps, folder)
            net = fitted.params["net"]
        found: Row = probe(functools.partial(mean_representations, config.model, len(counts), net["encoder"]))
        if method == UNTRAINED:
            return found
        if ARMS[method].task != "none":
            tested = fitted.evaluate(eval_batches(source(config, data, method, "test")))
            found["pair_accuracy"] = tested["pair_accuracy"]
        if method == PLAIN and seed == 0:
            self.bench.run.save(net, len(counts), tokenizer=data.tokenizer)
        test, most = eval_batches(source(config, data, PLAIN, "test")), orders.most_masked(config.data)
        return found | measure_network(functools.partial(likeliest, model, net), test, counts, most)


REMEDIES, PAIRS = methods(WEIGHTED, UNLIKELY), methods(NSP, SOP)
OVERLAP, ORDER = methods("word overlap, next"), methods("word overlap, order", "words, order")
QUESTIONS = (
    Question("pair_accuracy", methods(NSP), methods(SOP), claim="The next sentence is easier to tell than their order"),
    Question("pair_accuracy", OVERLAP, methods(NSP), claim="Shared words alone tell the next sentence better"),
    Question("pair_accuracy", methods(SOP), ORDER, claim="The network tells their order better than words do"),
    Question("books_8", PAIRS, methods(PLAIN), claim="A task on pairs helps a probe with 8 labels a class"),
    Question("books_128", PAIRS, methods(PLAIN), claim="A task on pairs helps a probe with 128 labels a class"),
    Question("books_128", methods(PLAIN), methods(UNTRAINED, TFIDF), claim="Masked tokens alone make a good probe"),
    Question("rare_accuracy", REMEDIES, methods(PLAIN), claim="Each remedy helps rare tokens"),
    Question("middle_accuracy", REMEDIES, methods(PLAIN), claim="Each remedy helps tokens of middle frequency"),
    Question("frequent_accuracy", REMEDIES, methods(PLAIN), expected="same", margin=0.01,
        claim="No remedy costs frequent tokens more than 0.01"),
    Question("gain_near", methods(PLAIN), (0.0,), claim="A copy within 8 tokens helps to fill a mask"),
    Question("gain_far", methods(PLAIN), (0.0,), claim="A copy 17 or more tokens away helps to fill a mask"),
    Question("books_128", methods(WORDS), methods(PLAIN), claim="Masks of whole words help a probe"),
)  # fmt: skip


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        data, chain = make_data(config), config.training.optimizer
        run.uses(data.pairs)

        @functools.cache
        def recipe(method: str, steps: int) -> Recipe:
            objective = make_objective(config, method, data.counts)
            weights = {"mlm": 1.0} | ({"pair": 1.0} if ARMS[method].task != "none" else {})
            return Recipe(objective, weights, by_rate(chain, steps))

        lab = Lab(config, data, Bench(config, run, {}), recipe)
        arms = [name for name in ARMS if config.longer or name != WORDS]
        tried = run.all([{"tuned": name} for name in arms], lab.tune)
        lab = dataclasses.replace(lab, bench=dataclasses.replace(lab.bench, tuned=tried))
        names = [*arms, *BY_WORDS, *((UNTRAINED, TFIDF) if data.passages else ())]
        results = run.all(product(method=names, seed=range(config.seeds)), lab.evaluate, on=tried)
        asked = [question for question in QUESTIONS if data.passages or not question.metric.startswith("books")]
        plain = [row for row in results if row["method"] == PLAIN]
        figures = [lambda: draw_frequency(run, results, (PLAIN, WEIGHTED, UNLIKELY)), lambda: draw_distance(run, plain)]
        curves = {"masked_accuracy": "accuracy on masked tokens", "pair_accuracy": "accuracy on pairs"}
        return run.report(results, asked, notes=[lab.bench.table], figures=figures, curves=curves)


if __name__ == "__main__":
    study.run(main, Config, __doc__)
