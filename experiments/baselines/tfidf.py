"""Bag-of-words baseline: TF-IDF of unigrams and bigrams with logistic regression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def predict_by_tfidf(texts: Sequence[str], labels: np.ndarray, tests: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Fits on labelled texts and predicts the labels of each list of test texts.

    >>> predict_by_tfidf(["good day", "bad night"], np.array([1, 0]), [["a good one", "so bad"]])[0].tolist()
    [1, 0]
    """
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=1_000)).fit(texts, labels)
    return [model.predict(test) for test in tests]
