"""Data sets in memory with one fixed test set; each seed draws its training and validation examples from the rest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from experiments.data.images import pixels_of, read_images
from experiments.data.mnist5k import read_mnist5k, split_by_class
from experiments.data.tables import Table


class Pool(NamedTuple):
    """N examples to draw from and M to test on."""

    name: str
    x: np.ndarray
    """float32 [N, D]."""
    y: np.ndarray
    """[N], classes or numbers."""
    test_x: np.ndarray
    test_y: np.ndarray
    strata: np.ndarray
    """[N]; a draw is stratified by these."""

    @property
    def classes(self) -> int:
        """Number of classes; labels count from 0."""
        return int(self.y.max()) + 1

    @property
    def examples(self) -> dict[str, np.ndarray]:
        """The examples to draw from, with their row numbers: "x", "y" and "row"."""
        return {"x": self.x, "y": self.y, "row": np.arange(len(self.y), dtype=np.int32)}

    def draw(self, part: float, seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the examples to train on, and of a part of the pool to validate on."""
        held = round(len(self.y) * part)
        train, valid = split_by_class(self.strata, (len(self.y) - held, held), seed)
        return train, valid


def pool_of(name: str, x: np.ndarray, y: np.ndarray, strata: np.ndarray, test: float, seed: int) -> Pool:
    """Splits a set once; `test` is the share of test examples."""
    held = round(len(y) * test)
    rows, others = split_by_class(strata, (len(y) - held, held), seed)
    return Pool(name, x[rows], y[rows], x[others], y[others], strata[rows])


def pool_of_table(table: Table, test: float, seed: int, strata: np.ndarray | None = None) -> Pool:
    """Splits a table, at random if there are no strata."""
    parts = np.zeros(len(table), np.int32) if strata is None else strata
    return pool_of(table.name, table.features, table.target, parts, test, seed)


def pool_of_images(name: str, limit: int, seed: int, test: float = 0.2) -> Pool:
    """Splits images: digits at 14 x 14 ("mnist5k"), or the training split of a TFDS set, averaged over squares.

    Pixels are 0 to 1, and classes count from 0.
    """
    if name == "mnist5k":
        images, labels = read_mnist5k(14)
        x, y = images.reshape(len(images), -1), labels
    else:
        found = read_images(name, "train", limit=limit).numbered()
        x, y = pixels_of(found), found.label
        x = x / max(float(x.max()), 1.0)
    return pool_of(name, x[:limit], y[:limit], y[:limit], test, seed)
