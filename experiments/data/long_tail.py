"""Data with rare classes: long tails of known length, and verses of the 66 books of the Bible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from experiments.data.bible import read_verses
from experiments.data.draws import Pool, pool_of_table
from experiments.data.table_files import TableConfig, read_table_file
from experiments.data.tables import standardised
from train.errors import UsageError

LEAST_OF_A_CLASS = 12


def tail_counts(classes: int, most: int, least: int) -> np.ndarray:
    """Number of examples of each class, decreasing geometrically; int [classes].

    >>> tail_counts(3, 100, 1).tolist()
    [100, 10, 1]
    """
    return np.round(most * (least / most) ** (np.arange(classes) / (classes - 1))).astype(int)


def draw_rare(
    pool: Pool, counts: np.ndarray | None, seeds: Sequence[int], seed: int, held: float = 0.2
) -> dict[str, np.ndarray]:
    """Draws the training and validation examples of each of S seeds of a study.

    Args:
        pool: Examples with classes.
        counts: Training examples of each class, in falling order; which class is how rare is drawn at random. None uses
            all.
        seeds: One per network.
        seed: Seed of the study.
        held: Share of the pool to validate on.

    Returns:
        `rows` and `held`, int [S, n], indices into the pool; `counts` [S, V] of the rows; `order` [S, V], the classes
        from the most frequent to the rarest.

    Raises:
        UsageError: A class has fewer examples than are asked for.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("rows", "held", "counts", "order")}
    for number in seeds:
        rows, valid = pool.draw(held, [seed, number])
        if counts is not None:
            have = np.bincount(pool.y[rows], minlength=pool.classes)
            if counts.max() > have.min():
                raise UsageError(f"--most may be at most {have.min()}, what there is of each class, got {counts.max()}")
            order = np.random.default_rng([seed, number, 11]).permutation(pool.classes)
            rows = np.concatenate([rows[pool.y[rows] == k][:n] for k, n in zip(order, counts, strict=True)])
        have = np.bincount(pool.y[rows], minlength=pool.classes)
        found: Any = (rows.astype(np.int32), valid.astype(np.int32), have.astype(np.float32), np.argsort(-have))
        for name, value in zip(parts, found, strict=True):
            parts[name].append(value)
    return {name: np.stack(values) for name, values in parts.items()}


def pool_of_file(config: TableConfig, seed: int) -> Pool:
    """A user's table with classes, a quarter of it for the test; gaps are filled by medians, features standardised.

    Raises:
        UsageError: As `read_table_file`; or a class has fewer than `LEAST_OF_A_CLASS` rows.
    """
    table, names = read_table_file(config, task="classification")
    for name, count in zip(names, np.bincount(table.target), strict=True):
        if count < LEAST_OF_A_CLASS:
            raise UsageError(
                f"class {name!r} of {table.name} has {count} rows, expected at least {LEAST_OF_A_CLASS} to train on, "
                "choose by and test; give more of them, or leave the class out"
            )
    pool = pool_of_table(table, 1 / 4, seed, strata=table.target)
    middle = np.nanmedian(pool.x, 0)
    parts = (np.where(np.isnan(part), middle, part) for part in (pool.x, pool.test_x))
    train, test = standardised(*parts)
    return pool._replace(x=train, test_x=test)


def pool_of_books(features: int = 256, limit: int | None = None) -> Pool:
    """Verses of the World English Bible, with the book (of 66) as the class.

    The test is every fifth chapter, or every fifth verse of a book with fewer than five chapters. The features are a
    singular value decomposition of TF-IDF, both fitted on verses outside of the test.
    """
    verses = read_verses("web")[:: 1 if limit is None else max(1, 31_102 // limit)]
    chapters = Counter(book for book, _ in {(v.book, v.chapter) for v in verses})
    is_test = np.array([(v.chapter if chapters[v.book] >= 5 else v.verse) % 5 == 0 for v in verses])
    label = np.array([v.book - 1 for v in verses], np.int32)
    texts = np.array([v.text for v in verses], object)
    words = TfidfVectorizer(sublinear_tf=True, min_df=2).fit(texts[~is_test])
    shape = TruncatedSVD(features, random_state=0)
    train = shape.fit_transform(words.transform(texts[~is_test]))
    scale = train.std()
    x, test = (
        np.asarray(part / scale, np.float32) for part in (train, shape.transform(words.transform(texts[is_test])))
    )
    return Pool("books of the World English Bible", x, label[~is_test], test, label[is_test], label[~is_test])
