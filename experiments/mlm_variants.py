"""Variants of masked language modelling: tasks on pairs of sentences, rare tokens, whole words, replaced tokens.

What is asked of small encoders on the World English Bible (public domain), tested on books that they never saw:

- Is next-sentence prediction (Devlin et al. 2019, arXiv:1810.04805) easy and a matter of shared words, and sentence
  order (Lan et al. 2019, arXiv:1909.11942) not; does either help a probe for the group of a book? Pairs are whole
  sentences, chosen so that neither length nor punctuation tells the answer; TF-IDF says how far words go.
- Do weights by frequency (Jiang et al. 2019, arXiv:1902.09191) or the unlikelihood of frequent tokens (Welleck et al.
  2019, arXiv:1908.04319; Li et al. 2020, arXiv:1911.03860) help the rare ones, and what do they cost?
- Do masks of whole words, or ELECTRA's replaced tokens (Clark et al. 2020, arXiv:2003.10555), make a better probe?
- How far may evidence be: a masked token of which the text holds one copy, against the same with both masked.

Each method takes the operations of plain training, within 2 %, at the learning rate, of at least 5, with the lowest
loss of its own on validation books, in shorter runs of another seed. Weights, power and alpha are not tuned.

    python -m experiments.mlm_variants
    python -m experiments.mlm_variants --steps 3000 --arms MLM

Expected: NSP tells 0.641 of pairs, shared words 0.707; SOP tells 0.503, which is chance, words 0.558. No task on pairs,
nor whole words, nor ELECTRA is seen to help the probe: MLM 0.290, untrained 0.257, TF-IDF 0.372. MLM fills 0.306 of
masks and 0.011 of rare ones, counts of neighbours 0.267 and 0.043. Unlikelihood: 0.017 of rare ones (undecided), 0.118
of middle ones (MLM 0.101). Weights cost frequent ones 0.115. In 800 steps no copy is used. 13 minutes of processor.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import study
from experiments.baselines.neighbours import fill_by_neighbours
from experiments.data import orders
from experiments.data.bert import Batch
from experiments.data.load import DataConfig, wording
from experiments.data.orders import OrderText, eval_batches
from experiments.evaluation import masked
from experiments.evaluation.groups import mean_representations, probe_groups
from experiments.evaluation.pair_words import pairs_by_words
from experiments.models.masked_tasks import Arm, Remedies, make_arm
from experiments.models.paired import PairedEncoder, ReplacedTokens, initial_net
from experiments.models.transformer import TransformerConfig
from experiments.study import Fitted, Question, Row, Run, Training, TrainingConfig, axis, many, product
from experiments.study.config import check_known
from experiments.study.many import Bench, methods
from experiments.study.own_rate import Trainings
from train.errors import UsageError
from train.objective import Objective
from train.optimizers import OptimizerConfig

PLAIN, NSP, SOP, WEIGHTED, UNLIKELY = "MLM", "MLM + NSP", "MLM + SOP", "frequency-weighted", "unlikelihood"
WORDS, ELECTRA, UNTRAINED, TFIDF = "whole words", "replaced tokens", "untrained encoder", "TF-IDF"
NEIGHBOURS = "counts of neighbours"
ARMS = {PLAIN: Arm(), NSP: Arm("next"), SOP: Arm("order"), WEIGHTED: Arm(loss="weighted")}
ARMS |= {UNLIKELY: Arm(loss="unlikely"), WORDS: Arm(whole_words=True), ELECTRA: Arm(loss="replaced")}
BY_WORDS = {f"{name}, {ARMS[arm].task}": (name, arm) for name in ("word overlap", "words") for arm in (NSP, SOP)}

PENALTIES = {8: 0.003, 128: 0.1}
"""Labels a class, and C of the probe, as `bert_pretrain` chose it on validation books."""
MUON = OptimizerConfig(name="muon", learning_rate=0.02, warmup=0.05, weight_decay=0.05, b2=0.98, clip_norm=1.0)


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Small masked encoders."""

    arms: tuple[str, ...] = axis(tuple(ARMS))
    """What is trained."""
    seeds: int = axis(5)
    """Number of networks of each arm, with different initial weights and data orders."""
    data: DataConfig = DataConfig(vocab_size=2048)
    """The text and its tokens."""
    model: TransformerConfig = TransformerConfig(width=64, depth=1)
    """The encoder."""
    training: Training = TrainingConfig(MUON, 800, batch_size=16, devices=1, log_every=10, keep_final=False)
    """Steps are for plain training. The learning rate is the middle of the grid to try."""
    tuning_steps: int = 120
    """Steps of plain training when rates are tried."""
    power: float = 0.5
    """How strongly `frequency_weighted` prefers rare tokens."""
    alpha: float = 0.5
    """Weight of the unlikelihood of frequent tokens."""
    replaced: float = 50.0
    """Weight of the loss on replaced tokens; the generator's has weight 1."""

    def __post_init__(self) -> None:
        check_known("--arms", self.arms, ARMS)
        if PLAIN not in self.arms:
            raise UsageError(f"every arm is compared with {PLAIN!r}: --arms must hold it, got {', '.join(self.arms)}")

    def fast(self) -> Config:
        """The same path on less of everything."""
        training = dataclasses.replace(self.training, steps=4, log_every=2)
        parts: Any = {"model": TransformerConfig(width=16, depth=1), "training": training, "arms": (PLAIN, SOP)}
        return dataclasses.replace(self, **parts, tuning_steps=2, seeds=2)


def make_data(config: Config) -> OrderText:
    """The pairs of each split; the tokenizer is trained on the training split only."""
    return orders.read_order_text(config.data)


def make_model(config: Config, vocab_size: int, method: str = PLAIN) -> Any:
    """The network of a method."""
    return (ReplacedTokens if method == ELECTRA else PairedEncoder)(config.model, vocab_size)


def make_objective(config: Config, method: str, counts: np.ndarray) -> Objective:
    """The losses of a method, for parameters from `with_rate`."""
    remedies = Remedies(counts, masked.EDGES[-1], config.power, config.alpha)
    model = make_model(config, len(counts), method)
    return make_arm(model, ARMS[method], orders.most_masked(config.data), remedies)


def source(config: Config, data: OrderText, method: str, split: str, seed: int = 0) -> orders.PairSource:
    """The batches of a method."""
    arm, sizes = ARMS[method], (config.data.seq_len, config.data.mask_rate, config.seed + seed)
    return orders.PairSource(data.pairs[split], arm.task, *sizes, data.starts, arm.whole_words)


class Lab(NamedTuple):
    """What the trainings share."""

    bench: Bench
    data: OrderText
    trainings: Trainings
    held_out: Callable[[str, str], list[Batch]]
    """Batches of a method and a split."""


def make_lab(config: Config, data: OrderText, run: Run) -> Lab:
    """Makes the objectives, and counts the operations of a step of each method."""
    objectives = {name: make_objective(config, name, data.counts) for name in ARMS}
    weights = {name: arm.weights(config.replaced) for name, arm in ARMS.items()}
    trainings = Trainings(config.training, objectives, weights)
    for name in config.arms:
        batch = source(config, data, name, "train")(0, np.arange(config.training.batch_size))
        trainings.count(name, initial(config, data, name, 0), batch)
    held_out = functools.cache(lambda method, split: eval_batches(source(config, data, method, split)))
    return Lab(Bench(config, run, {}), data, trainings, held_out)


def initial(config: Config, data: OrderText, method: str, seed: int) -> Any:
    """Random parameters; the encoders of all methods with the same seed are equal."""
    key = jax.random.fold_in(jax.random.key(config.seed), seed)
    return initial_net(make_model(config, len(data.counts), method), config.data.seq_len, key)


def train(lab: Lab, setting: Row, method: str, *, rate: float, steps: int, seed: int) -> Fitted:
    """A network, trained at a rate with the operations of `steps` steps of plain training."""
    config, data = lab.bench.config, lab.data
    net, own = initial(config, data, method, seed), config.seed + seed
    batches = orders.train_batches(source(config, data, method, "train", seed), config.training.batch_size)
    folder = lab.bench.run.folder(**setting)
    return lab.trainings.fit(method, net, batches, rate=rate, steps=steps, seed=own, folder=folder)


def try_rate(lab: Lab, tuned: str, rate: float) -> Row:
    """The method's own loss on validation books after a short training at a rate, with a separate seed."""
    steps = lab.bench.config.tuning_steps
    fitted = train(lab, {"tuned": tuned, "rate": rate}, tuned, rate=rate, steps=steps, seed=1_000)
    return {"loss": fitted.evaluate(lab.held_out(tuned, "validation"))["loss"]}


def evaluate(lab: Lab, *, method: str, seed: int = 0) -> Row:
    """One network or baseline, on test books."""
    config, data, size = lab.bench.config, lab.data, len(lab.data.counts)
    test, most = lab.held_out(PLAIN, "test"), orders.most_masked(config.data)
    probe = functools.partial(probe_groups, data.passages, PENALTIES, seed)
    if method == NEIGHBOURS:
        return masked.measure_tokens(fill_by_neighbours(data.pairs["train"].ids, size), test, data.counts, most)
    if method == TFIDF:
        return probe(None)
    if method in BY_WORDS:
        name, arm = BY_WORDS[method]
        batches = eval_batches(source(config, data, arm, "train", 1 + seed)), lab.held_out(arm, "test")
        return {"pair_accuracy": pairs_by_words(*batches, size)[name]}
    net, found = initial(config, data, method, seed), dict[str, Any]()
    if method != UNTRAINED:
        rate, steps = lab.bench.rate(method, config.training.optimizer.learning_rate), config.training.steps
        fitted = train(lab, {"method": method, "seed": seed}, method, rate=rate, steps=steps, seed=seed)
        net, found = fitted.params["net"], {"rate": rate, "operations": lab.trainings.share(method, steps)}
    found |= probe(functools.partial(mean_representations, config.model, size, net["encoder"]))
    if method in (UNTRAINED, ELECTRA):
        return found
    if ARMS[method].task != "none":
        found["pair_accuracy"] = fitted.evaluate(lab.held_out(method, "test"))["pair_accuracy"]
    if method == PLAIN and seed == 0:
        lab.bench.run.save(net, size, tokenizer=data.tokenizer)
    predict = functools.partial(masked.likeliest, make_model(config, size), net)
    return found | masked.measure_network(predict, test, data.counts, most)


def ask(metric: str, arms: tuple[str, ...], baselines: tuple[Any, ...], claim: str, **more: Any) -> Question:
    """A question on methods, against others or a number."""
    against = tuple({"method": one} if isinstance(one, str) else one for one in baselines)
    return Question(metric, methods(*arms), against, claim=claim, **more)


REMEDIES, PAIRS, SAME = (WEIGHTED, UNLIKELY), (NSP, SOP), {"expected": "same"}
QUESTIONS = (
    ask("pair_accuracy", (NSP,), (SOP,), "The next sentence is easier to tell than the order of two"),
    ask("pair_accuracy", ("word overlap, next",), (NSP,), "Shared words alone tell the next sentence better"),
    ask("pair_accuracy", (SOP,), ("word overlap, order", "words, order"), "Networks tell the order better than words"),
    ask("books_8", PAIRS, (PLAIN,), "A task on pairs helps a probe with 8 labels a class"),
    ask("books_128", PAIRS, (PLAIN,), "A task on pairs helps a probe with 128 labels a class"),
    ask("books_128", (PLAIN,), (UNTRAINED, TFIDF), "Masked tokens alone make a good probe"),
    ask("books_128", (WORDS, ELECTRA), (PLAIN,), "Whole words, and replaced tokens, make a better one"),
    ask("masked_accuracy", (PLAIN,), (NEIGHBOURS,), "The network fills masks better than counts of neighbours"),
    ask("rare_accuracy", (PLAIN,), (0.1,), "Of rare tokens it fills less than a tenth", expected="worse"),
    ask("rare_accuracy", REMEDIES, (PLAIN,), "Each remedy helps rare tokens"),
    ask("middle_accuracy", REMEDIES, (PLAIN,), "Each remedy helps tokens of middle frequency"),
    ask("frequent_accuracy", REMEDIES, (PLAIN,), "No remedy costs frequent tokens more than 0.01", margin=0.01, **SAME),
    ask("gain_near", (PLAIN,), (0.0,), "A copy within 8 tokens helps to fill a mask"),
    ask("gain_far", (PLAIN,), (0.0,), "A copy 17 or more tokens away helps to fill a mask"),
    ask("operations", tuple(ARMS), (1.0,), "All take the operations of plain training", margin=0.02, **SAME),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        data = make_data(config)
        run.uses(data.pairs)
        lab, extend = make_lab(config, data, run), not (config.dry_run or config.fast_dev_run)
        middle = config.training.optimizer.learning_rate
        tried = many.tune_runs(run, config.arms, lambda **one: try_rate(lab, **one), middle, extend=extend)
        lab = lab._replace(bench=dataclasses.replace(lab.bench, tuned=tried))
        names = [*config.arms, *BY_WORDS, *((UNTRAINED, TFIDF) if data.passages else ())]
        grid = [*product(method=names, seed=range(config.seeds)), *methods(NEIGHBOURS)]
        results = run.all(grid, lambda **setting: evaluate(lab, **setting), on=tried)
        asked = [question for question in QUESTIONS if any(question.metric in row for row in results)]
        steps = ", ".join(f"{method}: {lab.trainings.steps(method, config.training.steps)}" for method in config.arms)
        return run.report(
            results,
            asked,
            notes=[f"Steps at equal compute: {steps}.", lab.bench.table],
            figures=[lambda: masked.draw_measured(run, results, PLAIN, (WEIGHTED, UNLIKELY, NEIGHBOURS))],
            curves={"masked_accuracy": "accuracy on masked tokens", "pair_accuracy": "accuracy on pairs"},
            title=f"Variants of masked language modelling of {wording(config.data).title}",
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
