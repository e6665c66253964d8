"""Bag-of-words baselines for next-sentence prediction and sentence order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression

from experiments.data.tokenizers import SPECIAL_IDS

Sides = tuple[Any, Any]


def sides_of(batches: Sequence[Mapping[str, np.ndarray]], vocab_size: int) -> Sides:
    """Counts of the tokens of both sentences, sparse [pairs, V] each, before masking."""
    tokens = np.concatenate([batch["labels"] for batch in batches])
    parts = np.concatenate([batch["segments"] for batch in batches])

    def count(part: int) -> Any:
        row, place = np.nonzero((parts == part) & (tokens >= len(SPECIAL_IDS)))
        return sp.csr_matrix((np.ones(len(row)), (row, tokens[row, place])), shape=(len(tokens), vocab_size))

    return count(0), count(1)


def pairs_by_words(train: Sequence[Any], test: Sequence[Any], vocab_size: int) -> dict[str, float]:
    """Accuracy of two classifiers without a network: were pairs of sentences changed?

    Args:
        train: Batches to fit; the classifiers read the unmasked `labels`.
        test: Batches to test on.
        vocab_size: V.

    Returns:
        "word overlap": logistic regression on one number, the cosine of the TF-IDF vectors of both sentences; "words":
        on the products and the differences of the two vectors, which know the order.
    """
    (a, b), (c, d) = sides_of(train, vocab_size), sides_of(test, vocab_size)
    y, z = (np.concatenate([batch["answer"] for batch in part]) for part in (train, test))
    weigh = TfidfTransformer(sublinear_tf=True).fit(sp.vstack([a, b])).transform
    (a, b), (c, d) = (weigh(a), weigh(b)), (weigh(c), weigh(d))

    def cosine(one: Any, other: Any) -> np.ndarray:
        return np.asarray(one.multiply(other).sum(1)).reshape(-1, 1)

    def all_words(one: Any, other: Any) -> Any:
        return sp.hstack([one - other, one.multiply(other), cosine(one, other)]).tocsr()

    overlap = LogisticRegression(C=100.0).fit(cosine(a, b), y).score(cosine(c, d), z)
    words = LogisticRegression(C=1.0, max_iter=300).fit(all_words(a, b), y).score(all_words(c, d), z)
    return {"word overlap": float(overlap), "words": float(words)}
