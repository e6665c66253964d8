"""Heads of words without a network: one distance for all words, and logistic regression over distances."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from experiments.data.treebank import BUCKETS, TreeData
from experiments.evaluation.trees import Sentences, in_a_row, right_edges, right_heads, share

WINDOW, FARTHEST, ROOT = 2, 10, 11
"""Context words on each side, largest distinct distance, and the class of the root."""
PENALTIES = (0.01, 0.1, 1.0)
"""Inverse strengths of the penalty to choose from."""


def distances_of(sentences: Sentences) -> np.ndarray:
    """The distance of each word's head, [S, N], at most `FARTHEST` to each side; `ROOT` if it is the root."""
    place = np.arange(1, sentences["heads"].shape[-1] + 1)
    return np.where(sentences["heads"] == 0, ROOT, np.clip(sentences["heads"] - place, -FARTHEST, FARTHEST))


def heads_at(distances: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The heads at given distances, [S, N], clipped to the first and last word of the sentence."""
    place, count = np.arange(1, words.shape[-1] + 1), words.sum(-1, keepdims=True)
    return np.where(distances == ROOT, 0, np.clip(place + distances, 1, count))


def usual_distance(sentences: Sentences) -> int:
    """The most frequent distance of the head of a scored word: 1 is the next word."""
    found, counts = np.unique(distances_of(sentences)[sentences["scored"]], return_counts=True)
    return int(found[counts.argmax()])


def usual_heads(train: Sentences, tests: Mapping[str, Sentences]) -> dict[str, np.ndarray]:
    """Heads [S, N] for each test, all at the usual distance."""
    distance = usual_distance(train)
    return {name: heads_at(np.full(of["words"].shape, distance), of["words"]) for name, of in tests.items()}


def measure_heads(heads: Mapping[str, np.ndarray], data: TreeData, **same: Any) -> list[dict[str, Any]]:
    """A row for each test: "text", share of right heads as "attachment", its examples, and the entries of `same`."""
    right = {text: right_heads(heads[text], gold) for text, gold in data.tests.items()}
    return [
        {"text": text, "attachment": share(examples), "attachment examples": examples.tolist(), **same}
        for text, examples in right.items()
    ]


def draw_rows(few: int, seeds: Any, count: int) -> np.ndarray:
    """Rows of `few` training sentences for each seed, [seeds, few], disjoint as long as there are enough.

    >>> draw_rows(2, [0, 1, 2], 5).tolist()
    [[0, 1], [2, 3], [4, 0]]
    """
    return (few * np.asarray(seeds)[:, None] + np.arange(few)) % count


def _features(sentences: Sentences) -> sparse.csr_matrix:
    """Indicators of the parts of each present word and of the words around it."""
    parts, words = sentences["parts"], sentences["words"]
    length = words.shape[-1]
    wide = np.pad(parts, ((0, 0), (WINDOW, WINDOW), (0, 0)))
    around = [wide[:, i : i + length][words] + i * BUCKETS for i in range(2 * WINDOW + 1)]
    columns = np.concatenate(around, -1)
    rows = np.repeat(np.arange(len(columns)), columns.shape[-1])
    ones = np.ones(columns.size, np.float32)
    return sparse.csr_matrix((ones, (rows, columns.ravel())), (len(columns), (2 * WINDOW + 1) * BUCKETS))


def linear_heads(train: Sentences, validation: Sentences, tests: Mapping[str, Sentences]) -> dict[str, np.ndarray]:
    """Heads [S, N] for each test by logistic regression of the distance, with the penalty chosen on validation data."""
    x, y = _features(train), distances_of(train)[train["words"]]

    def heads(model: LogisticRegression, of: Sentences) -> np.ndarray:
        distances = np.zeros(of["words"].shape, int)
        distances[of["words"]] = model.predict(_features(of))
        return heads_at(distances, of["words"])

    def attachment(model: LogisticRegression) -> float:
        right = heads(model, validation) == validation["heads"]
        return float(right[validation["scored"]].mean())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes")
        models = [LogisticRegression(C=c, max_iter=50, tol=1e-2).fit(x, y) for c in PENALTIES]
    best = max(models, key=attachment)
    return {name: heads(best, of) for name, of in tests.items()}


def measure_baseline(data: TreeData, is_linear: bool, seeds: Sequence[int], few: int) -> list[dict[str, Any]]:
    """Rows of the usual distance or of logistic regression: on all training sentences, or on `few` for each seed.

    For the usual distance, "uuas" is the share of arcs found by the chain of all words.
    """
    if not is_linear:
        rows = measure_heads(usual_heads(data.train, data.tests), data)
        return [
            row | {"uuas": share(right_edges(in_a_row(gold), gold))}
            for row, gold in zip(rows, data.tests.values(), strict=True)
        ]
    if not seeds:
        return measure_heads(linear_heads(data.train, data.validation, data.tests), data)
    rows = []
    for seed, some in zip(seeds, draw_rows(few, seeds, len(data.treebank.train)), strict=True):
        heads = linear_heads({name: leaf[some] for name, leaf in data.train.items()}, data.validation, data.tests)
        rows += measure_heads(heads, data, seed=seed)
    return rows
