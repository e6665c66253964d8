"""Transcripts of networks, and their character and word error rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.data.utterances import Corpus
from experiments.models.speech import FrameReader, Transducer, read

WIDTHS = (1, 3, 5, 7, 9)
"""Numbers of frames to average over, to choose from."""


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Minimum number of insertions, deletions and substitutions that turn a into b (Levenshtein 1966).

    >>> edit_distance("kitten", "sitting"), edit_distance("the son".split(), "the sun rose".split())
    (3, 2)
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def letter_errors(truth: Sequence[str], written: Sequence[str]) -> list[list[int]]:
    """Letter errors and letters of each text; the ratio of their sums is the character error rate.

    >>> letter_errors(["heaven"], ["heavn"])
    [[1, 6]]
    """
    return [[edit_distance(right, found), len(right)] for right, found in zip(truth, written, strict=True)]


def word_errors(truth: Sequence[str], written: Sequence[str]) -> list[list[int]]:
    """The same in words; a text without spaces is one word.

    >>> word_errors(["the heaven"], ["the heavn"])
    [[1, 2]]
    """
    return letter_errors([text.split() for text in truth], [text.split() for text in written])  # type: ignore[misc]


def error_rate(errors: Sequence[Sequence[int]]) -> float:
    """Total errors over total length.

    >>> error_rate([[1, 6], [0, 4]])
    0.1
    """
    wrong, length = np.sum(errors, axis=0)
    return float(wrong / length)


def measure(truth: Sequence[str], written: Sequence[str], end: str = "") -> dict[str, Any]:
    """Character and word error rate, and errors and length of each text; `end` is appended to the names.

    >>> measure(["heaven"], ["heavn"])["wer"]
    1.0
    """
    found = {"cer": letter_errors(truth, written), "wer": word_errors(truth, written)}
    rates = {f"{name}{end}": error_rate(errors) for name, errors in found.items()}
    return rates | {f"{name}{end} examples": errors for name, errors in found.items()}


class Reader(NamedTuple):
    """A network that transcribes the sets of a corpus, and the number of frames to average its probabilities over."""

    corpus: Corpus
    model: FrameReader | Transducer
    params: Any
    width: int = 1

    def read(self, name: str) -> list[str]:
        """Its transcripts of a set."""
        part = self.corpus.sets[name]
        return self.corpus.spell(read(self.model, self.params, part.features, part.frames, self.width))

    def validate(self) -> float:
        """The character error rate on the validation set."""
        return error_rate(letter_errors(self.corpus.sets["validation"].texts, self.read("validation")))

    def tuned(self) -> Reader:
        """The reader with the number of averaged frames that is best on the validation set."""
        widths = WIDTHS if isinstance(self.model, FrameReader) else (1,)
        return min((self._replace(width=width) for width in widths), key=Reader.validate)
