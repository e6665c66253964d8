"""The user's own recordings: WAV files with their texts, split by voices where these are known.

One of these layouts:

    manifest.jsonl          {"audio_filepath": "a.wav", "text": "good day", "speaker": "ann"} a line, as of NeMo
    metadata.csv            file|text a line, as of LJSpeech, or a table with a header: file,text,speaker
    ann/a.wav, ann/a.txt    a text file beside each recording

A voice is a value of `speaker`, else a folder, if there are several. With three voices or more those of the test and of
validation are in no other set; with fewer, recordings are split at random. Letters are in lower case; digits count, and
punctuation does not. Recordings become mono at 16 kHz, of power 1, without the silence around them, under white noise
40 dB below them, so that digital silence is no extreme.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.data.log_mel import BANDS, HOP, WINDOW, add_noise, log_mel, trimmed
from experiments.data.records import Skips, sentence_of
from experiments.data.transcripts import Entry, read_entries
from experiments.data.utterances import Corpus, Readings
from experiments.models.speech import STRIDE
from train.errors import UsageError

RATE, NOISE, LEAST, VOICES = 16_000, 40.0, 50, 3
"""Samples a second, decibels over the noise, the fewest recordings, and the fewest voices that are split by voice."""
SHARES = {"test": 0.2, "validation": 0.1, "heard voices": 0.1}
"""Of the voices, or of the recordings of training voices; without voices of the recordings."""


def read_recordings(path: str, train: int, held_out: int, longest: float, *, skip_budget: int = 0) -> Corpus:
    """Reads recordings and their texts.

    Args:
        path: Folder, manifest or metadata.
        train: Recordings to train on at most.
        held_out: Recordings of a test set at most; half of it for validation.
        longest: Seconds of a recording at most; longer ones are left out.
        skip_budget: Recordings that cannot be used and are skipped at most.

    Raises:
        UsageError: There are no recordings, or too few, or more than `skip_budget` cannot be used.
    """
    skips = Skips(Path(path).name, skip_budget, "correct or delete it")
    entries, features, texts, left_out = [], [], [], 0
    for entry in read_entries(path, skips):
        try:
            text, found = letters_of(entry.text), features_of(entry, np.random.default_rng([16, entry.number]))
            check_length(text, len(found))
        except Exception as error:  # the readers of the formats raise all kinds
            skips.skip(entry.where, entry.number, ValueError(f"{entry.file.name}: {sentence_of(error)}"))
            continue
        if len(found) > longest / (HOP):
            left_out += 1
            continue
        entries.append(entry)
        features.append(found.astype(np.float16))
        texts.append(text)
    if len(entries) < LEAST:
        longer = f", besides {left_out} of more than {longest:g} s (--data.longest-seconds)" if left_out else ""
        raise UsageError(
            f"expected at least {LEAST} recordings with texts in {path}, to train and to test on, got "
            f"{len(entries)}{longer}; add some"
        )
    voices = [entry.voice for entry in entries]
    sets = {}
    for name, rows in split_recordings(voices).items():
        most = {"train": train, "validation": held_out // 2}.get(name, held_out)
        sets[name] = _gathered(rows[:most], features, texts)
    known = len({*voices}) if by_voice(voices) else 0
    split = (
        f"{known} voices are known; those of the test are in no other set"
        if known
        else f"fewer than {VOICES} voices are known, so recordings are split at random, and no voice is unheard"
    )
    sizes = ", ".join(f"{len(part)} {name}" for name, part in sets.items())
    dropped = f"Left out: {left_out} of more than {longest:g} s, {len(skips.skipped)} that cannot be used."
    alphabet = "".join(sorted({*"".join(texts)} | {" "}))
    remarks = (f"Recordings: {sizes}; {split}.", dropped)
    return Corpus(f"recordings in {Path(path).name}", alphabet, " ", sets, remarks)


def letters_of(text: str) -> str:
    r"""A text in lower case, of letters, digits and apostrophes between single spaces.

    >>> letters_of("Don\u2019t  go -- Zoe\u0308!")
    "don't go zoë"

    Raises:
        ValueError: There is no letter.
    """
    plain = unicodedata.normalize("NFC", text).lower().replace("\u2019", "'")
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in plain)
    words = [word.strip("'") for word in kept.split()]
    found = " ".join(word for word in words if word)
    if not found:
        raise ValueError(f"expected a text with letters, got {text!r}")
    return found


def check_length(text: str, frames: int) -> None:
    """Refuses a recording that is too short for CTC to write its text.

    Raises:
        ValueError: The encoder has fewer outputs than letters, and blanks between two that are the same.
    """
    needed = len(text) + sum(a == b for a, b in itertools.pairwise(text))
    outputs = -(-frames // STRIDE)
    if outputs < needed:
        least, seconds = needed * STRIDE * HOP, frames * HOP
        raise ValueError(
            f"expected at least {least:.2f} s for the text {text[:40]!r}, got {seconds:.2f} s without silence"
        )


def read_wav(file: Path) -> tuple[np.ndarray, int]:
    """The samples [n] of a WAV file, of 8, 16, 24 or 32 bit or floating-point, from -1 to 1, and its rate.

    Channels are averaged.

    Raises:
        ValueError: It is no such file, is cut off, or has no samples.
    """
    from scipy.io import wavfile

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", wavfile.WavFileWarning)
        rate, samples = wavfile.read(file)
    if any("prematurely" in str(one.message) for one in caught):
        raise ValueError("the file is cut off")
    if not rate or not samples.size:
        raise ValueError(f"expected samples, got {samples.size} at {rate} a second")
    found = samples.astype(np.float64)
    if samples.dtype.kind == "u":  # 8 bits, with silence in the middle
        found -= 128
    if samples.dtype.kind in "iu":  # 24 bits are in the upper ones of 32
        found /= 2.0 ** (8 * samples.dtype.itemsize - 1)
    if not np.all(np.isfinite(found)):
        raise ValueError("expected finite samples, got NaN or infinity")
    return (found if found.ndim == 1 else found.mean(1)), int(rate)


def features_of(entry: Entry, rng: np.random.Generator) -> np.ndarray:
    """Features [frames, BANDS] of a recording.

    Raises:
        ValueError: It cannot be used.
    """
    from scipy.signal import resample_poly

    samples, rate = read_wav(entry.file)
    start = round(entry.start * rate)
    samples = samples[start : None if entry.seconds is None else start + round(entry.seconds * rate)]
    if not samples.size:
        raise ValueError(f"it ends before its offset, {entry.start:g} s")
    shared = math.gcd(rate, RATE)
    samples = samples if rate == RATE else resample_poly(samples, RATE // shared, rate // shared)
    if not np.any(samples):
        raise ValueError("expected speech, got silence only")
    heard = trimmed(samples)
    if len(heard) < round(WINDOW * RATE):
        raise ValueError(f"expected at least {WINDOW:g} s of sound, got {len(heard) / RATE:.3f} s")
    return log_mel(add_noise(heard, NOISE, rng), RATE)


def split_recordings(voices: Sequence[str | None]) -> dict[str, np.ndarray]:
    """Rows of each set in a random order; where voices are known, no voice of the test is in another set.

    The voice with the most recordings is always trained on.

    >>> found = split_recordings(["ann"] * 20 + ["bob", "cid"] * 2)
    >>> {name: len(rows) for name, rows in found.items()}
    {'test': 2, 'validation': 2, 'heard voices': 2, 'train': 18}
    >>> {name: len(rows) for name, rows in split_recordings([None] * 50).items()}
    {'test': 10, 'validation': 5, 'train': 35}
    """
    rng, rows = np.random.default_rng(16), np.arange(len(voices))
    if not by_voice(voices):
        order, counts = rng.permutation(rows), [_share(name, len(rows)) for name in ("test", "validation")]
        test, validation, train = np.split(order, np.cumsum(counts))
        return {"test": test, "validation": validation, "train": train}
    names, voice, sizes = np.unique([str(voice) for voice in voices], return_inverse=True, return_counts=True)
    others = rng.permutation(np.delete(np.arange(len(names)), sizes.argmax()))
    counts = [_share(name, len(names)) for name in ("test", "validation")]
    test, validation, _ = np.split(others, np.cumsum(counts))
    found = {"test": np.isin(voice, test), "validation": np.isin(voice, validation)}
    parts = {name: rng.permutation(rows[chosen]) for name, chosen in found.items()}
    rest = rng.permutation(rows[~found["test"] & ~found["validation"]])
    heard, train = np.split(rest, [_share("heard voices", len(rest))])
    return parts | {"heard voices": heard, "train": train}


def by_voice(voices: Sequence[str | None]) -> bool:
    """Whether enough voices are known to hold some out."""
    return None not in voices and len({*voices}) >= VOICES


def _share(name: str, count: int) -> int:
    return max(1, round(SHARES[name] * count))


def _gathered(rows: np.ndarray, features: Sequence[np.ndarray], texts: Sequence[str]) -> Readings:
    frames = np.array([len(features[row]) for row in rows], np.int32)
    table = np.zeros((len(rows), frames.max(), BANDS), np.float16)
    for place, row in enumerate(rows):
        table[place, : frames[place]] = features[row]
    return Readings(table, frames, tuple(texts[row] for row in rows))
