"""Does a language model of characters profit from losses on words, phrases and sentences? An ablation at equal compute.

L = alpha char + beta word + gamma phrase + delta sentence. A small causal transformer reads characters; its states are
pooled over words, phrases and sentences (`pool_spans`), and each pooled state predicts what comes next in the text: the
next word of 2,000 and the next character by `hierarchical_cross_entropy`, the words of the next phrase by
`soft_cross_entropy` with their bag, the next sentence among those of the batch by `info_nce`. No level sees what it
predicts. A weight is 0 or `--weight`. Every arm takes the operations of the arm of characters alone, within
2 %, so costly levels leave fewer steps; each is trained at the best of a log grid of rates, by bits per character of
validation books. Then all levels are measured on test books, as in `experiments.evaluation.levels`, of every arm.
Baselines: characters alone, an untrained network, n-grams, pairs and bags of words. InfoNCE is arXiv:1807.03748.

Data: the World English Bible (public domain). Sentences end at `.!?`, phrases also at `,;:`, words at spaces.

    python -m experiments.hierarchical_lm
    python -m experiments.hierarchical_lm --weight 0.03 --steps 2000

Expected: in 300 steps at weight 0.1 no level is seen to help. Test bits per character are 2.431 ± 0.054 of characters
alone, 2.489, 2.451 and 2.422 with words, phrases or sentences (undecided), 2.582 with all (worse). Counts are better
at every level than all levels are: an n-gram has 1.528 bits, pairs of words name 0.307 of the next words, states 0.270.
14 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax

import lossfns
from experiments import study
from experiments.data.load import DataConfig, wording
from experiments.evaluation import levels
from experiments.evaluation.levels import METRICS
from experiments.models.levels import LevelsLM, shares_of
from experiments.models.transformer import TransformerConfig
from experiments.study import Question, Recipe, Row, Run, Start, TrainingConfig, axis, many, product
from experiments.study.config import check_known
from experiments.study.many import Bench, methods
from experiments.study.training import count_operations
from train.errors import UsageError
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig

CHARS, WORD, PHRASE, SENTENCE, ALL = "characters", "+ words", "+ phrases", "+ sentences", "all levels"
ARMS: dict[str, tuple[str, ...]] = {CHARS: (), WORD: ("word",), PHRASE: ("phrase",), SENTENCE: ("sentence",)}
ARMS[ALL] = ("word", "phrase", "sentence")
"""Levels that an arm is trained on in addition to the characters."""
OTHERS, UNTRAINED, COUNTS = tuple(ARMS)[1:], "untrained", "counts of characters and words"


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """A causal transformer of characters, and losses on longer spans."""

    data: DataConfig = DataConfig(tokenizer="bytes", seq_len=256)
    """The text; its characters are the bytes."""
    model: TransformerConfig = TransformerConfig(width=64, depth=2, heads=2)
    """The network."""
    training: study.Training = TrainingConfig(
        OptimizerConfig(name="muon", learning_rate=0.012, warmup=0.05, weight_decay=0.05, b2=0.98, clip_norm=1.0),
        steps=300,
        batch_size=4,
        devices=1,
    )
    """Steps are for characters alone. The learning rate is the middle of the grid to try."""
    weight: float = 0.1
    """Weight of each level above the characters, which have weight 1."""
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
    seeds: int = axis(5)
    """Networks of each arm."""
    blocks: int = 384
    """Blocks of training and of test books on which the levels are measured; half of it chooses rates."""

    def __post_init__(self) -> None:
        if self.data.tokenizer != "bytes":
            raise UsageError(
                f"the levels are found in characters: --data.tokenizer must be bytes, got {self.data.tokenizer}"
            )
        check_known("--arms", self.arms, ARMS)
        if CHARS not in self.arms:
            raise UsageError(f"every arm is compared with {CHARS!r}: --arms must hold it, got {', '.join(self.arms)}")
        if self.training.accumulate > 1:
            raise UsageError("--accumulate must be 1: InfoNCE compares with all sentences of a batch")

    def fast(self) -> Config:
        """The same path on less of everything."""
        model = TransformerConfig(width=16, depth=1, heads=1)
        parts: Any = {"model": model, "training": dataclasses.replace(self.training, steps=4), "arms": (CHARS, ALL)}
        return dataclasses.replace(self, **parts, tuning_steps=2, ngram_order=3, seeds=2, blocks=64)


def make_data(config: Config) -> levels.Measured:
    """Reads the splits, finds their levels, and takes blocks of each."""
    return levels.read_measured(config.data, config.vocabulary, config.blocks)


def make_model(config: Config, method: str) -> LevelsLM:
    """The network of an arm, with the heads that it trains."""
    return LevelsLM(config.model, 5 + 256, config.vocabulary + 1, ARMS[method])


def make_objective(model: LevelsLM, temperature: float) -> Objective:
    """Losses of the levels of a model, in nats for each character, word, phrase and sentence."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        out: Any = model.apply({"params": params}, batch)
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
    """What the trainings share: recipes, and operations of a step by arm."""

    bench: Bench
    data: levels.Measured
    recipes: dict[str, Recipe]
    operations: dict[str, int]

    def steps(self, method: str, steps: int) -> int:
        """Steps of an arm that take the operations of `steps` steps on characters alone."""
        return max(1, round(steps * self.operations[CHARS] / self.operations[method]))


def make_lab(config: Config, data: levels.Measured, run: Run) -> Lab:
    """Makes the recipes, and counts the operations of a step of each arm."""
    lab, batch = Lab(Bench(config, run, {}), data, {}, {}), next(data.batches(config.training.batch_size, 0))
    for method, used in ARMS.items():
        objective = make_objective(make_model(config, method), config.temperature)
        lab.recipes[method] = Recipe(objective, {"char": 1.0, **dict.fromkeys(used, config.weight)})
        begin = start(config, data, method, 0)
        lab.operations[method] = count_operations(lab.recipes[method], begin, batch, config.training)
    return lab


def start(config: Config, data: levels.Measured, method: str, seed: int) -> Start:
    """Random parameters; the encoders of all arms with the same seed are equal."""
    key, block = config.seed + seed, data.batches(1, 0)
    return Start(lambda: make_model(config, method).init(jax.random.key(key), next(block))["params"], key)


def train_arm(lab: Lab, setting: Row, method: str, *, rate: float, steps: int, seed: int) -> Any:
    """The encoder of an arm, trained at a rate with the operations of `steps` steps on characters alone."""
    config = lab.bench.config
    optimizer = dataclasses.replace(config.training.optimizer, learning_rate=rate)
    fitted = study.fit_model(
        lab.recipes[method],
        start(config, lab.data, method, seed),
        lab.data.batches(config.training.batch_size, config.seed + seed),
        training=dataclasses.replace(config.training, optimizer=optimizer, steps=lab.steps(method, steps)),
        folder=lab.bench.run.folder(**setting),
    )
    if setting == {"method": ALL, "seed": 0}:
        lab.bench.run.save(fitted.params, ALL)
    return {"encoder": fitted.params["encoder"]}


def try_rate(lab: Lab, tuned: str, rate: float) -> Row:
    """Bits per character of validation books after a short training at a rate, with a separate seed."""
    config, setting = lab.bench.config, {"tuned": tuned, "rate": rate}
    params = train_arm(lab, setting, tuned, rate=rate, steps=config.tuning_steps, seed=1000)
    return {
        "loss": float(levels.encode(make_model(config, CHARS), params, lab.data.blocks["validation"])["char"].mean())
    }


def evaluate(lab: Lab, *, method: str, seed: int = 0) -> Row:
    """Metrics of all levels on test books, of a trained or untrained network or of counts."""
    config, data, size = lab.bench.config, lab.data, lab.bench.config.vocabulary + 1
    if method == COUNTS:
        return levels.count_levels(data.text, data.blocks, config.ngram_order, size)
    params, more = start(config, data, CHARS, seed).params, {}
    if method == UNTRAINED:
        params = params()
    else:
        rate, steps = lab.bench.rate(method, config.training.optimizer.learning_rate), config.training.steps
        params = train_arm(lab, {"method": method, "seed": seed}, method, rate=rate, steps=steps, seed=seed)
        ratio = lab.operations[method] / lab.operations[CHARS]
        more = {"rate": rate, "operations": lab.steps(method, steps) * ratio / steps}
    return levels.probe(make_model(config, CHARS), params, data.blocks, size) | more


def ask(metric: str, treatments: tuple[str, ...], baselines: tuple[str, ...], claim: str) -> Question:
    """A question on one level."""
    better: Any = "lower" if metric == "bits_per_char" else "higher"
    return Question(metric, methods(*treatments), methods(*baselines), better=better, claim=claim)


QUESTIONS = (
    ask("bits_per_char", OTHERS, (CHARS,), "At equal compute each level helps the characters, and so do all"),
    ask("next_word", (PHRASE, SENTENCE), (CHARS,), "Losses on phrases and on sentences help the words"),
    ask("next_phrase", (WORD, SENTENCE), (CHARS,), "Losses on words and on sentences help the phrases"),
    ask("next_sentence", (WORD, PHRASE), (CHARS,), "Losses on words and on phrases help the sentences"),
    *(ask(f"next_{ARMS[arm][0]}", (arm, ALL), (CHARS,), f"{arm[2:]}: a loss of its own helps") for arm in OTHERS[:3]),
    *(ask(metric, (ALL,), (COUNTS, UNTRAINED), f"{name}: all levels beat counts") for metric, name in METRICS.items()),
    Question(
        "operations", methods(*ARMS), (1.0,), margin=0.02, expected="same", claim="All arms take as many operations"
    ),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        data = make_data(config)
        run.uses(data.text.streams, data.text.texts)
        lab = make_lab(config, data, run)
        extend = not (config.dry_run or config.fast_dev_run)
        middle = config.training.optimizer.learning_rate
        tried = many.tune_runs(run, config.arms, lambda **one: try_rate(lab, **one), middle, extend=extend)
        lab = lab._replace(bench=dataclasses.replace(lab.bench, tuned=tried))
        grid = [*product(method=[*config.arms, UNTRAINED], seed=range(config.seeds)), *methods(COUNTS)]
        results = run.all(grid, lambda **setting: evaluate(lab, **setting), on=tried)
        steps = ", ".join(f"{method}: {lab.steps(method, config.training.steps)}" for method in config.arms)
        return run.report(
            results,
            QUESTIONS,
            notes=[f"Steps at equal compute: {steps}. Measured on {data.sizes} of test text.", lab.bench.table],
            figures=[lambda: levels.draw_changes(run.path, results, CHARS)],
            curves={"char": "characters", "word": "words", "phrase": "phrases", "sentence": "sentences"},
            title=f"Losses on several levels of {wording(config.data).title}",
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
