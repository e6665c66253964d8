"""Bag-of-words baselines: logistic regression on TF-IDF of unigrams and bigrams, and on its singular vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from train.errors import UsageError


def fit_tfidf(texts: Sequence[str], labels: np.ndarray, c: float) -> Any:
    """Returns the scikit-learn pipeline fitted on labelled texts; `c` is its inverse regularisation strength.

    >>> fit_tfidf(["good day", "bad night"], np.array([1, 0]), 10.0).predict(["a good one", "so bad"]).tolist()
    [1, 0]
    """
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=c, max_iter=1_000)).fit(texts, labels)


def predict_by_tfidf(texts: Sequence[str], labels: np.ndarray, tests: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Fits on labelled texts and predicts the labels of each list of test texts.

    >>> predict_by_tfidf(["good day", "bad night"], np.array([1, 0]), [["a good one", "so bad"]])[0].tolist()
    [1, 0]
    """
    model = fit_tfidf(texts, labels, 10.0)
    return [model.predict(test) for test in tests]


def topics(unlabelled: Sequence[str], tests: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Latent semantic analysis (Deerwester et al. 1990): TF-IDF on the largest singular vectors of unlabelled texts.

    Args:
        unlabelled: N texts.
        tests: M texts, not used for the singular vectors.
        size: Number D of singular vectors; fewer if there are few texts.

    Returns:
        Features [N, D] and [M, D] on one scale, so that the first, with the largest variance, count most.

    Raises:
        UsageError: There are no words.
    """
    try:
        found = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(unlabelled)
    except ValueError as error:
        raise UsageError(f"the texts have no words ({error}), expected some of two letters or more") from error
    common = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    with contextlib.suppress(ValueError):  # no word occurs in two texts
        found = common.fit(unlabelled)
    words = found.transform(unlabelled)
    model = TruncatedSVD(max(1, min(size, *(side - 1 for side in words.shape))), random_state=0)
    features, others = model.fit_transform(words), model.transform(found.transform(tests))
    unit = features.std()
    return features / unit, others / unit


def fit_topics(features: np.ndarray, labels: np.ndarray, c: float) -> Any:
    """Logistic regression on `topics`; `c` is scikit-learn's inverse regularisation strength."""
    return LogisticRegression(C=c, max_iter=1_000).fit(features, labels)
