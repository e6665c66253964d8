"""Finds the translation of a short text by character n-grams, and by a linear map between the languages.

Three methods, each with its options chosen on validation data: the cosine of TF-IDF vectors; the cosine after a ridge
regression from the vectors of one language to the vectors of the other (Mikolov et al. 2013, arXiv:1309.4168); and a
weighted sum of both.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from experiments.evaluation.retrieval import misses

RANGES = ((1, 2), (1, 3), (2, 4), (2, 5), (3, 5))
"""Ranges of n-gram lengths to try."""
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Penalties of the ridge regression."""
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Weights of the TF-IDF cosine in the sum."""
TFIDF, MAP, BOTH = "TF-IDF", "linear map", "map + TF-IDF"


Scores = Mapping[str, np.ndarray]


class Options(NamedTuple):
    """Options chosen on validation rows."""

    sizes: tuple[int, int]
    penalty: float
    weight: float


class Translated(NamedTuple):
    """Scores of a method on the test rows, by language [n, n], and the chosen options."""

    scores: Scores
    chosen: str
    validation: float
    """recall@1 on validation rows, averaged over languages."""


def translate(
    texts: Mapping[str, Sequence[str]], split: Sequence[np.ndarray], ranges: Sequence[tuple[int, int]] = RANGES
) -> dict[str, Translated]:
    """Compares names in the first language with names in each other language.

    Args:
        texts: [N] names by language. The document frequencies are over all names, which needs no pairs.
        split: Training (of the map), validation and test rows.
        ranges: Ranges of n-gram lengths to try.

    Returns:
        The scores of each method with its best options; rows are queries, columns answers.
    """
    train, validation, test = split
    best: dict[str, tuple[float, Options]] = {}
    for sizes in ranges:
        ridge = _Ridge(_vectors(texts, sizes), train, validation)
        for penalty in PENALTIES:
            mapped = ridge.mapped(penalty)
            for weight in WEIGHTS:
                for way, scores in _ways(ridge.overlap, mapped, weight).items():
                    found = 1 - misses(scores)
                    if way not in best or found > best[way][0]:
                        best[way] = found, Options(sizes, penalty, weight)
    result = {}
    for way, (found, chosen) in best.items():
        ridge = _Ridge(_vectors(texts, chosen.sizes), train, test)
        scores = _ways(ridge.overlap, ridge.mapped(chosen.penalty), chosen.weight)[way]
        said = [f"n-grams of {chosen.sizes[0]} to {chosen.sizes[1]}"]
        said += [f"penalty {chosen.penalty:g}"] * (way != TFIDF) + [f"weight {chosen.weight:g}"] * (way == BOTH)
        result[way] = Translated(scores, ", ".join(said), found)
    return result


def _vectors(texts: Mapping[str, Sequence[str]], sizes: tuple[int, int]) -> dict[str, Any]:
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=sizes, sublinear_tf=True)
    vectorizer.fit(itertools.chain.from_iterable(texts.values()))
    return {language: vectorizer.transform(names) for language, names in texts.items()}


def _ways(overlap: Scores, mapped: Scores, weight: float) -> dict[str, Scores]:
    both = {language: mapped[language] + weight * overlap[language] for language in overlap}
    return {TFIDF: overlap, MAP: mapped, BOTH: both}


class _Ridge:
    """Ridge regression written with inner products, so that no matrix has the size of the vocabulary squared.

    With K the inner products of the training texts and k the products of a text with them, the prediction for the text
    is the sum of the training targets with the weights k (K + penalty I)^-1.
    """

    def __init__(self, vectors: Mapping[str, Any], train: np.ndarray, rows: np.ndarray) -> None:
        ours, *languages = vectors
        source = vectors[ours]
        self.products = (source[train] @ source[train].T).toarray()
        self.asked = (source[rows] @ source[train].T).toarray()
        self.overlap, self.targets = {}, {}
        for language in languages:
            target = vectors[language]
            self.overlap[language] = (source[rows] @ target[rows].T).toarray()
            pairs = [(target[train] @ target[part].T).toarray() for part in (train, rows)]
            self.targets[language] = pairs

    def mapped(self, penalty: float) -> dict[str, np.ndarray]:
        """Cosines of the predictions with the targets, by language."""
        weights = np.linalg.solve(self.products + penalty * np.eye(len(self.products)), self.asked.T).T
        found = {}
        for language, (among, across) in self.targets.items():
            lengths = np.sqrt(np.sum((weights @ among) * weights, axis=1, keepdims=True))
            found[language] = weights @ across / np.maximum(lengths, 1e-12)
        return found
