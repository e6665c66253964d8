"""Utterances: features, frames and texts, in sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Readings:
    """N utterances.

    Attributes:
        features: float16 [N, T, M], zero after the last frame.
        frames: int32 [N].
        texts: What is read.
    """

    features: np.ndarray
    frames: np.ndarray
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Any) -> Readings:
        """The given rows."""
        return Readings(self.features[rows], self.frames[rows], tuple(np.array(self.texts)[rows].tolist()))


@dataclass(frozen=True)
class Corpus:
    """Utterances by set: "train", "validation", "test", and others.

    Attributes:
        name: What was read, for the report.
        alphabet: Letters by class; class 0 is the blank, so the first letter has class 1.
        between: What stands between the units (words, digits) of a text.
        sets: The utterances.
        remarks: What a report says of them.
    """

    name: str
    alphabet: str
    between: str
    sets: dict[str, Readings]
    remarks: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """Letters and the blank."""
        return len(self.alphabet) + 1

    @property
    def longest(self) -> int:
        """Letters of the longest text."""
        return max(len(text) for part in self.sets.values() for text in part.texts)

    def labels(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Classes int32 [N, longest], zero after the text, and lengths int32 [N]."""
        table = np.zeros((len(texts), self.longest), np.int32)
        for row, text in enumerate(texts):
            table[row, : len(text)] = [self.alphabet.index(letter) + 1 for letter in text]
        return table, np.array([len(text) for text in texts], np.int32)

    def spell(self, classes: Sequence[Sequence[int]]) -> list[str]:
        """The texts of lists of classes."""
        return ["".join(self.alphabet[number - 1] for number in row) for row in classes]

    def units(self) -> Readings:
        """Training utterances of one word or digit."""
        part = self.sets["train"]
        alone = [row for row, text in enumerate(part.texts) if (self.between or text) not in text or len(text) == 1]
        return part.take(alone)

    def batches(self, batch_size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        """Endless batches of the training set in a new order for each epoch; the last, small one is left out."""
        part, rng = self.sets["train"], np.random.default_rng([seed, 16])
        labels, letters = self.labels(part.texts)
        while True:
            order = rng.permutation(len(part))
            for rows in np.split(order[: len(order) // batch_size * batch_size], len(order) // batch_size):
                yield {
                    "features": part.features[rows].astype(np.float32),
                    "frames": part.frames[rows],
                    "labels": labels[rows],
                    "letters": letters[rows],
                }
