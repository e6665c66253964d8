"""Variants of masked language modelling: tasks on pairs of sentences, rare tokens, whole words, replaced tokens.

Small encoders of the World English Bible (public domain) are tested on books that they never saw. Is next-sentence
prediction (Devlin et al. 2019, arXiv:1810.04805) easy and a matter of shared words, and sentence order (Lan et al.
2019, arXiv:1909.11942) not? Do weights by frequency (Jiang et al. 2019, arXiv:1902.09191) or the unlikelihood of
frequent tokens (Welleck et al. 2019, arXiv:1908.04319) help the rare ones, and at what cost? Do masks of whole words,
or ELECTRA's replaced tokens (Clark et al. 2020, arXiv:2003.10555), make a better probe for the group of a book? Does a
masked token's only copy in the text help, by how far it is away? Each takes the operations of plain training, within 2
%, at the best of a log grid of rates for its own loss on other books, in shorter runs. Power and alpha are 0.5.

    python -m experiments.mlm_variants
    python -m experiments.mlm_variants --longer

Expected: NSP tells 0.641 of pairs, shared words 0.707; SOP 0.503, which is chance. No task is seen to help the probe:
MLM 0.290, untrained 0.257, TF-IDF 0.372. MLM fills 0.306 of masks, 0.011 of rare ones, counts of neighbours 0.267 and
0.043, and 4 times the steps 0.370 and 0.062, when a copy helps by 0.008. Unlikelihood fills 0.017 of rare ones
(undecided). Weights cost frequent ones 0.115; at a power of 1 nothing is learnt. That copies help after more steps was
seen with two networks before it was asked. 25 minutes with `--longer`.
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
from experiments.data.load import DataConfig, wording
from experiments.evaluation import masked
from experiments.evaluation.groups import mean_representations, probe_groups
from experiments.evaluation.pair_words import pairs_by_words
from experiments.models.masked_tasks import UNLIKELY, WEIGHTED, Arm, Frequencies, make_arm, remedies
from experiments.models.paired import PairedEncoder, ReplacedTokens, initial_net
from experiments.models.transformer import TransformerConfig
from experiments.study import Fitted, Question, Row, Run, Training, TrainingConfig, axis, many, product
from experiments.study.many import Bench, methods
from experiments.study.own_rate import Trainings
from train.errors import UsageError
from train.objective import Objective
from train.optimizers import OptimizerConfig

PLAIN, NSP, SOP, LONG, NEIGHBOURS = "MLM", "MLM + NSP", "MLM + SOP", "MLM, 4 times as long", "counts of neighbours"
WORDS, ELECTRA, UNTRAINED, TFIDF = "whole words", "replaced tokens", "untrained encoder", "TF-IDF"
ARMS = {PLAIN: Arm(), NSP: Arm("next"), SOP: Arm("order"), WEIGHTED: Arm(loss="weighted")}
ARMS |= {UNLIKELY: Arm(loss="unlikely"), WORDS: Arm(whole_words=True), ELECTRA: Arm(loss="replaced", strength=50.0)}
LESS, MORE = remedies(1 / 8, 1 / 8), remedies(1.0, 2.0)
TRAINED = ARMS | LESS | MORE | {LONG: Arm(times=4.0)}
"""`--longer` adds those that are not among `ARMS`."""
BY_WORDS = {f"{name}, {ARMS[arm].task}": (name, arm) for name in ("word overlap", "words") for arm in (NSP, SOP)}
PENALTIES = {8: 0.003, 128: 0.1}
"""Labels a class, and C of the probe, as `bert_pretrain` chose it on validation books."""
MUON = OptimizerConfig(name="muon", learning_rate=0.02, warmup=0.05, weight_decay=0.05, b2=0.98, clip_norm=1.0)


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Small masked encoders."""

    arms: tuple[str, ...] = axis(tuple(ARMS))
    """What is trained."""
    longer: bool = axis(False)
    """Also try other powers and alphas, and train 4 times as long."""
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

    def __post_init__(self) -> None:
        study.check_known("--arms", self.arms, TRAINED)
        if PLAIN not in self.arms:
            raise UsageError(f"every arm is compared with {PLAIN!r}: --arms must hold it, got {', '.join(self.arms)}")

    def fast(self) -> Config:
        """The same path on less of everything."""
        training = dataclasses.replace(self.training, steps=4, log_every=2)
        parts: Any = {"model": TransformerConfig(width=16, depth=1), "training": training, "arms": (PLAIN, SOP)}
        return dataclasses.replace(self, **parts, tuning_steps=2, seeds=2)


def make_data(config: Config) -> orders.OrderText:
    """The pairs of each split; the tokenizer is trained on the training split only."""
    return orders.read_order_text(config.data)


def make_model(config: Config, vocab_size: int, method: str = PLAIN) -> Any:
    """The network of a method."""
    return (ReplacedTokens if method == ELECTRA else PairedEncoder)(config.model, vocab_size)


def make_objective(config: Config, method: str, counts: np.ndarray) -> Objective:
    """The losses of a method; its parameters are those of `with_rate`."""
    model, known = make_model(config, len(counts), method), Frequencies(counts, masked.EDGES[-1])
    return make_arm(model, TRAINED[method], orders.most_masked(config.data), known)


def source(config: Config, data: orders.OrderText, method: str, split: str, seed: int = 0) -> orders.PairSource:
    """The batches of a method."""
    arm, sizes = TRAINED[method], (config.data.seq_len, config.data.mask_rate, config.seed + seed)
    return orders.PairSource(data.pairs[split], arm.task, *sizes, data.starts, arm.whole_words)


class Lab(NamedTuple):
    """What the trainings share; held out are the batches of a method and a split."""

    bench: Bench
    data: orders.OrderText
    trainings: Trainings
    held_out: Callable[[str, str], list[Any]]


def make_lab(config: Config, data: orders.OrderText, run: Run) -> Lab:
    """Makes the objectives, and counts the operations of a step of each method."""
    objectives = {name: make_objective(config, name, data.counts) for name in TRAINED}
    trainings = Trainings(config.training, objectives, {name: arm.weights for name, arm in TRAINED.items()})
    for name in TRAINED:
        batch = source(config, data, name, "train")(0, np.arange(config.training.batch_size))
        trainings.count(name, initial(config, data, name, 0), batch)
    held_out = functools.cache(lambda method, split: orders.eval_batches(source(config, data, method, split)))
    return Lab(Bench(config, run, {}), data, trainings, held_out)


def initial(config: Config, data: orders.OrderText, method: str, seed: int) -> Any:
    """Random parameters; the encoders of all methods with the same seed are equal."""
    key = jax.random.fold_in(jax.random.key(config.seed), seed)
    return initial_net(make_model(config, len(data.counts), method), config.data.seq_len, key)


def train(lab: Lab, setting: Row, method: str, *, rate: float, steps: int, seed: int) -> Fitted:
    """A network, trained at a rate with the operations of `steps` steps of plain training."""
    config, data = lab.bench.config, lab.data
    net, own = initial(config, data, method, seed), config.seed + seed
    batches = orders.train_batches(source(config, data, method, "train", seed), config.training.batch_size)
    options: Any = {"seed": own, "folder": lab.bench.run.folder(**setting)}
    return lab.trainings.fit(method, net, batches, rate=rate, steps=steps, **options)


def try_rate(lab: Lab, tuned: str, rate: float) -> Row:
    """The method's own loss on validation books after a short training at a rate, with a seed of its own."""
    setting, steps = {"tuned": tuned, "rate": rate}, lab.bench.config.tuning_steps
    fitted = train(lab, setting, tuned, rate=rate, steps=steps, seed=1_000)
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
        batches = orders.eval_batches(source(config, data, arm, "train", 1 + seed)), lab.held_out(arm, "test")
        return {"pair_accuracy": pairs_by_words(*batches, size)[name]}
    net, found = initial(config, data, method, seed), dict[str, Any]()
    if method != UNTRAINED:
        steps = round(TRAINED[method].times * config.training.steps)
        rate = lab.bench.rate(method, config.training.optimizer.learning_rate)
        fitted = train(lab, {"method": method, "seed": seed}, method, rate=rate, steps=steps, seed=seed)
        net, found = fitted.params["net"], {"rate": rate, "operations": lab.trainings.share(method, steps)}
    found |= probe(functools.partial(mean_representations, config.model, size, net["encoder"]))
    if method in (UNTRAINED, ELECTRA):
        return found
    if TRAINED[method].task != "none":
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
    ask("rare_accuracy", REMEDIES, (PLAIN,), "A power of 0.5, and an alpha of 0.5, help rare tokens"),
    ask("middle_accuracy", REMEDIES, (PLAIN,), "They help tokens of middle frequency"),
    ask("frequent_accuracy", REMEDIES, (PLAIN,), "They cost frequent tokens no more than 0.01", margin=0.01, **SAME),
    ask("gain_near", (PLAIN,), (0.0,), "A copy within 8 tokens helps to fill a mask"),
    ask("gain_far", (PLAIN,), (0.0,), "A copy 17 or more tokens away helps to fill a mask"),
    ask("operations", tuple(ARMS), (1.0,), "All take the operations of plain training", margin=0.02, **SAME),
)

LONGER = (
    ask("rare_accuracy", tuple(MORE), (PLAIN,), "A power of 1, and an alpha of 2, help rare tokens"),
    ask("middle_accuracy", tuple(LESS), (PLAIN,), "0.125 helps tokens of middle frequency"),
    ask("frequent_accuracy", tuple(LESS), (PLAIN,), "It costs frequent tokens at most 0.01", margin=0.01, **SAME),
    ask("gain_near", (LONG,), (0.0,), "In 4 times the steps a copy within 8 tokens helps"),
    ask("gain_far", (LONG,), (0.0,), "In 4 times the steps a copy 17 or more tokens away helps"),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        data = make_data(config)
        run.uses(data.pairs)
        lab, extend = make_lab(config, data, run), not (config.dry_run or config.fast_dev_run)
        middle = config.training.optimizer.learning_rate
        arms = tuple(dict.fromkeys((*config.arms, *(*LESS, *MORE, LONG) * config.longer)))
        tried = many.tune_runs(run, arms, lambda **one: try_rate(lab, **one), middle, extend=extend)
        lab = lab._replace(bench=dataclasses.replace(lab.bench, tuned=tried))
        names = [*arms, *BY_WORDS, *((UNTRAINED, TFIDF) if data.passages else ())]
        grid = [*product(method=names, seed=range(config.seeds)), *methods(NEIGHBOURS)]
        results = run.all(grid, lambda **setting: evaluate(lab, **setting), on=tried)
        asked = [one for one in QUESTIONS + LONGER * config.longer if any(one.metric in row for row in results)]
        steps = ", ".join(f"{arm}: {lab.trainings.steps(arm, config.training.steps)}" for arm in config.arms)
        return run.report(
            results,
            asked,
            notes=[f"Steps at equal compute: {steps}.", lab.bench.table],
            figures=[
                lambda: masked.draw_measured(
                    run, results, (PLAIN, LONG), (WEIGHTED, UNLIKELY, *LESS, *MORE, NEIGHBOURS)
                )
            ],
            curves={"masked_accuracy": "accuracy on masked tokens", "pair_accuracy": "accuracy on pairs"},
            title=f"Variants of masked language modelling of {wording(config.data).title}",
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
