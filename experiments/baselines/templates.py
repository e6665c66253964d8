"""Connected-word recognition by dynamic time warping to templates, the classical method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.data.utterances import Corpus, Readings
from experiments.evaluation.reading import error_rate, letter_errors

PRICES, TUNING = (0.0, 20.0, 60.0, 200.0), 75
"""Penalties per template to try, in squared distance, and number of utterances to choose one."""


class Templates:
    """Spoken words, concatenated; a path goes through a template by steps of 0, 1 or 2 frames.

    An utterance is the cheapest sequence of templates (Ney 1984, doi:10.1109/TASSP.1984.1164320): within a template
    each frame costs its squared distance, and each template used costs a tuned penalty, `price`.

    Args:
        features: [t_i, M], features of each template.
        words: The word of each template.
    """

    def __init__(self, features: Sequence[np.ndarray], words: Sequence[str]) -> None:
        lengths = np.array([len(part) for part in features])
        self.words, self.last = tuple(words), np.cumsum(lengths) - 1
        self.first = self.last - lengths + 1
        self.frames = np.concatenate(features).astype(np.float32)
        self.owner = np.repeat(np.arange(len(words)), lengths)
        self._age = np.arange(len(self.frames)) - self.first[self.owner]

    def read(self, features: np.ndarray, price: float) -> list[str]:
        """The words of an utterance [t, M].

        >>> rise, fall = np.array([[0.0], [1.0]]), np.array([[1.0], [0.0]])
        >>> Templates([rise, fall], ["up", "down"]).read(np.array([[0.0], [0.1], [1.0], [1.0], [0.0]]), price=0.1)
        ['up', 'down']
        """
        squares = (self.frames**2).sum(1)
        distances = squares - 2 * features.astype(np.float32) @ self.frames.T + (features**2).sum(1)[:, None]
        cost = np.full(len(self.frames), np.inf, np.float32)
        start = np.zeros(len(self.frames), np.int32)
        ended: list[
            tuple[float, int, int]
        ] = []  # at each frame: the cheapest path, its last template, where that began
        before = 0.0
        for now, distance in enumerate(distances):
            best, origin = cost.copy(), start.copy()
            for back in (1, 2):
                shifted = np.concatenate([np.full(back, np.inf, np.float32), cost[:-back]])
                shifted[self._age < back] = np.inf
                closer = shifted < best
                best[closer] = shifted[closer]
                origin[closer] = np.concatenate([np.zeros(back, np.int32), start[:-back]])[closer]
            enters = before + price < best[self.first]
            best[self.first[enters]] = before + price
            origin[self.first[enters]] = now
            cost, start = best + distance, origin
            winner = int(np.argmin(cost[self.last]))
            place = self.last[winner]
            before = float(cost[place])
            ended.append((before, winner, int(start[place])))
        words, now = [], len(ended) - 1
        while now >= 0:
            _, winner, began = ended[now]
            words.append(self.words[winner])
            now = began - 1
        return words[::-1]


def read_by_templates(corpus: Corpus, name: str) -> list[str]:
    """Transcripts of a set, by templates from all training utterances of one word.

    Every second frame is used. The price has the fewest letter errors in the first `TUNING` utterances of the
    validation set.
    """
    units = corpus.units()
    templates = Templates([_frames(units, row) for row in range(len(units))], units.texts)

    def read(part: Readings, price: float) -> list[str]:
        return [corpus.between.join(templates.read(_frames(part, row), price)) for row in range(len(part))]

    validation = corpus.sets["validation"]
    few = validation.take(slice(min(TUNING, len(validation))))
    price = min(PRICES, key=lambda price: error_rate(letter_errors(few.texts, read(few, price))))
    return read(corpus.sets[name], price)


def _frames(part: Readings, row: int) -> np.ndarray:
    return part.features[row, : part.frames[row] : 2].astype(np.float32)
