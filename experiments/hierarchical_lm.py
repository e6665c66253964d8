"""Does a language model of characters profit from losses on words, phrases and sentences? An ablation at equal compute.

L = alpha char + beta word + gamma phrase + delta sentence. A small causal transformer reads characters; its states are
pooled over words, phrases and sentences (`pool_spans`), and each pooled state predicts what comes next in the text: the
next word of 2,000 and the next character by `hierarchical_cross_entropy`, the words of the next phrase by
`soft_cross_entropy` with their bag, the next sentence of the batch by `info_nce` (arXiv:1807.03748). No level sees what
it predicts. Alpha is 1, the others are 0 or one of 5 weights of a log grid. Every arm takes the operations of the first
within 2 %, so costly levels leave fewer steps. Weight, then rate, are chosen by bits per character of validation
books, in shorter runs. All levels are measured on test books. Baselines: characters alone, no training, n-grams, words.

Data: the World English Bible (public domain). Sentences end at `.!?`, phrases also at `,;:`, words at spaces.

    python -m experiments.hierarchical_lm
    python -m experiments.hierarchical_lm --longer

Expected: no level is seen to help. The chosen weights are the smallest, but 0.01 for words. Test bits per character are
2.418 of characters alone, 2.459, 2.434 and 2.416 with words, phrases or sentences, 2.504 with all (worse), and 2.457 to
2.498 with all but one. Counts are better at every level: an n-gram has 1.528 bits, pairs of words name 0.307 of the
next words, states 0.266. With `--longer` 19 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

import lossfns
from experiments import study
from experiments.data.load import DataConfig, wording
from experiments.evaluation import levels
from experiments.evaluation.levels import METRICS
from experiments.models.levels import ALL, ARMS, CHARS, LEVELS, PHRASE, SENTENCE, WITHOUT, WORD, LevelsLM, shares_of
from experiments.models.transformer import TransformerConfig
from experiments.study import Question, Row, Run, TrainingConfig, axis, many, product
from experiments.study.config import check_known
from experiments.study.many import Bench, methods
from experiments.study.own_rate import Trainings
from train.errors import UsageError
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig

OTHERS, UNTRAINED, COUNTS = tuple(ARMS)[1:], "untrained", "counts of characters and words"
TRAINED = ARMS | WITHOUT
MUON = OptimizerConfig(name="muon", learning_rate=0.012, warmup=0.05, weight_decay=0.05, b2=0.98, clip_norm=1.0)


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """A causal transformer of characters, and losses on longer spans."""

    data: DataConfig = DataConfig(tokenizer="bytes", seq_len=256)
    """The text; its characters are the bytes."""
    model: TransformerConfig = TransformerConfig(width=64, depth=2, heads=2)
    """The network."""
    training: study.Training = TrainingConfig(MUON, steps=300, batch_size=4, devices=1)
    """Steps are those of characters alone. The learning rate is the middle of the grid that is tried."""
    weights: tuple[float, ...] = tuple(0.1 * many.STEP**power for power in range(-3, 2))
    """Weights that are tried of the levels above the characters, which have weight 1."""
    temperature: float = 0.1
    """Temperature of InfoNCE between sentences."""
    vocabulary: int = 2000
    """Number of most frequent words, the classes of next words."""
    tuning_steps: int = 60
    """Steps of characters alone when rates are tried."""
    ngram_order: int = 8
    """Longest n-gram, in characters."""
    arms: tuple[str, ...] = axis(tuple(ARMS))
    """What is trained."""
    longer: bool = axis(False)
    """Also leave out one level at a time."""
    seeds: int = axis(5)
    """Networks of each arm."""
    blocks: int = 384
    """Blocks of training and of test books on which the levels are measured; half of it chooses rates."""

    def __post_init__(self) -> None:
        if self.data.tokenizer != "bytes":
            raise UsageError(
                f"levels are found in characters: --data.tokenizer must be bytes, got {self.data.tokenizer}"
            )
        check_known("--arms", self.arms, TRAINED)
        if CHARS not in self.arms:
            raise UsageError(f"every arm is compared with {CHARS!r}: --arms must hold it, got {', '.join(self.arms)}")
        if self.training.accumulate > 1:
            raise UsageError("--accumulate must be 1: InfoNCE compares with all sentences of a batch")
        if min(self.weights, default=1.0) <= 0:
            raise UsageError(f"--weights must be above 0, got {min(self.weights):g}")

    def fast(self) -> Config:
        """The same path on less of everything."""
        parts: Any = {"model": TransformerConfig(width=16, depth=1, heads=1), "arms": (CHARS, ALL)}
        parts |= {"training": dataclasses.replace(self.training, steps=4)}
        return dataclasses.replace(self, **parts, weights=(0.1,), tuning_steps=2, ngram_order=3, seeds=2, blocks=64)


def make_data(config: Config) -> levels.Measured:
    """Reads the splits, finds their levels, and takes blocks of each."""
    return levels.read_measured(config.data, config.vocabulary, config.blocks)


def make_model(config: Config, method: str) -> LevelsLM:
    """The network of an arm, with the heads that it trains."""
    return LevelsLM(config.model, 5 + 256, config.vocabulary + 1, TRAINED[method])


def make_objective(model: LevelsLM, temperature: float) -> Objective:
    """Losses of a model's levels, in nats a character, word, phrase and sentence; parameters are as of `with_rate`."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        out: Any = model.apply({"params": params["net"]}, batch)
        segment = batch["segment_ids"]
        logits, labels = {"char": out["char"][:, :-1]}, {"char": batch["tokens"][:, 1:]}
        where = {"char": segment[:, 1:] == segment[:, :-1]}
        if "word" in out:
            logits["word"], labels["word"], where["word"] = out["word"], batch["word_next"][..., 0], batch["word_where"]
        values = lossfns.hierarchical_cross_entropy(logits, labels, where=where)
        terms = {level: Term(values[level], where[level]) for level in values}
        if "phrase" in out:
            bag = shares_of(batch["phrase_next"], model.words)
            terms["phrase"] = term(lossfns.soft_cross_entropy, out["phrase"], bag, where=batch["phrase_where"])
        if "sentence" in out:
            scores: Any = {"similarity": "cosine", "temperature": temperature, "axis_name": ctx.axis_name}
            exists = batch["sentence_where"].reshape(-1)
            terms["sentence"] = term(lossfns.info_nce, *out["sentence"], where=exists, **scores)
        return terms

    return objective


class Lab(NamedTuple):
    """What the trainings share; the weights are those chosen for the levels of each arm."""

    bench: Bench
    data: levels.Measured
    trainings: Callable[[float], Trainings]
    weights: Mapping[str, float] = MappingProxyType({})


def make_lab(config: Config, data: levels.Measured, run: Run) -> Lab:
    """Makes the objectives, and counts the operations of a step of each arm."""
    objectives = {name: make_objective(make_model(config, name), config.temperature) for name in TRAINED}
    batch, counted = next(data.batches(config.training.batch_size, 0)), dict[str, int]()

    @functools.cache
    def trainings(weight: float) -> Trainings:
        each = {name: {"char": 1.0, **dict.fromkeys(used, weight)} for name, used in TRAINED.items()}
        return Trainings(config.training, objectives, each, counted)

    for name in TRAINED:
        trainings(1.0).count(name, initial(config, data, name, 0), batch)
    return Lab(Bench(config, run, {}), data, trainings)


def initial(config: Config, data: levels.Measured, method: str, seed: int) -> Any:
    """Random parameters; the encoders of all arms with the same seed are equal."""
    return make_model(config, method).init(jax.random.key(config.seed + seed), next(data.batches(1, 0)))["params"]


def train_arm(lab: Lab, setting: Row, method: str, *, rate: float, weight: float, steps: int, seed: int) -> Any:
    """The encoder of an arm, trained at a rate with the operations of `steps` steps on characters alone."""
    config, own = lab.bench.config, lab.bench.config.seed + seed
    net, batches = initial(config, lab.data, method, seed), lab.data.batches(config.training.batch_size, own)
    folder, fit = lab.bench.run.folder(**setting), lab.trainings(weight).fit
    fitted = fit(method, net, batches, rate=rate, steps=steps, seed=own, folder=folder)
    if setting == {"method": ALL, "seed": 0}:
        lab.bench.run.save(fitted.params["net"], ALL)
    return {"encoder": fitted.params["net"]["encoder"]}


def attempt(lab: Lab, tuned: str, rate: float | None = None, weight: float | None = None) -> Row:
    """Bits per character of validation books after a short training at a rate or weight, with a seed of its own."""
    config, tried = lab.bench.config, {"rate": rate} if weight is None else {"weight": weight}
    used: Any = {"rate": config.training.optimizer.learning_rate, "weight": lab.weights.get(tuned, 0.0)} | tried
    params = train_arm(lab, {"tuned": tuned} | tried, tuned, **used, steps=config.tuning_steps, seed=1000)
    blocks = lab.data.blocks["validation"]
    return {"loss": float(levels.encode(make_model(config, CHARS), params, blocks)["char"].mean())}


def evaluate(lab: Lab, *, method: str, seed: int = 0) -> Row:
    """Metrics of all levels on test books, of a trained or untrained network or of counts."""
    config, data, size = lab.bench.config, lab.data, lab.bench.config.vocabulary + 1
    if method == COUNTS:
        return levels.count_levels(data.text, data.blocks, config.ngram_order, size)
    params, more = initial(config, data, CHARS, seed), dict[str, float]()
    if method != UNTRAINED:
        rate, weight = lab.bench.rate(method, config.training.optimizer.learning_rate), lab.weights.get(method, 0.0)
        steps, setting = config.training.steps, {"method": method, "seed": seed}
        params = train_arm(lab, setting, method, rate=rate, weight=weight, steps=steps, seed=seed)
        more = {"rate": rate, "weight": weight, "operations": lab.trainings(weight).share(method, steps)}
    return levels.probe(make_model(config, CHARS), params, data.blocks, size) | more


def ask(metric: str, treatments: tuple[str, ...], baselines: tuple[str, ...], claim: str) -> Question:
    """A question on one level."""
    better: Any = "lower" if metric == "bits_per_char" else "higher"
    return Question(metric, methods(*treatments), methods(*baselines), better=better, claim=claim)


SAME: Any = {"margin": 0.02, "expected": "same"}
QUESTIONS = (
    ask("bits_per_char", OTHERS, (CHARS,), "At equal compute each level helps the characters, and so do all"),
    ask("next_word", (PHRASE, SENTENCE), (CHARS,), "Losses on phrases and on sentences help the words"),
    ask("next_phrase", (WORD, SENTENCE), (CHARS,), "Losses on words and on sentences help the phrases"),
    ask("next_sentence", (WORD, PHRASE), (CHARS,), "Losses on words and on phrases help the sentences"),
    *(ask(f"next_{ARMS[arm][0]}", (arm, ALL), (CHARS,), f"{arm[2:]}: a loss of its own helps") for arm in OTHERS[:3]),
    *(ask(metric, (ALL,), (COUNTS, UNTRAINED), f"{name}: all levels beat counts") for metric, name in METRICS.items()),
    Question("operations", methods(*TRAINED), (1.0,), **SAME, claim="All arms take as many operations"),
)
LONGER = (
    ask("bits_per_char", (ALL,), tuple(WITHOUT), "Each level helps the characters beside the two others"),
    *(ask(f"next_{n}", (ALL,), (f"all but {n}s",), f"{n}s: their loss helps beside the two others") for n in LEVELS),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        data = make_data(config)
        run.uses(data.text.streams, data.text.texts)
        arms = tuple(dict.fromkeys((*config.arms, *tuple(WITHOUT) * config.longer)))
        lab, extend = make_lab(config, data, run), not (config.dry_run or config.fast_dev_run)
        levelled = product(tuned=[arm for arm in arms if TRAINED[arm]], weight=config.weights[: None if extend else 1])
        weights = sorted(run.all(levelled, functools.partial(attempt, lab)), key=lambda row: row["loss"], reverse=True)
        lab = lab._replace(weights={row["tuned"]: row["weight"] for row in weights})  # the last is the best
        middle = config.training.optimizer.learning_rate
        tried = many.tune_runs(run, arms, functools.partial(attempt, lab), middle, extend=extend)
        lab = lab._replace(bench=dataclasses.replace(lab.bench, tuned=tried))
        grid = [*product(method=[*arms, UNTRAINED], seed=range(config.seeds)), *methods(COUNTS)]
        results = run.all(grid, lambda **setting: evaluate(lab, **setting), on=[*weights, *tried])
        steps = {arm: lab.trainings(1.0).steps(arm, config.training.steps) for arm in arms}
        made = ", ".join(f"{arm}: {steps[arm]} with weight {lab.weights.get(arm, 0.0):.3g}" for arm in arms)
        return run.report(
            results,
            QUESTIONS + LONGER * config.longer,
            notes=[f"Steps at equal compute: {made}. Measured on {data.sizes} of test text.", lab.bench.table],
            figures=[lambda: levels.draw_changes(run.path, results, CHARS)],
            curves={"char": "characters", **{level: f"{level}s" for level in LEVELS}},
            title=f"Losses on several levels of {wording(config.data).title}",
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
