"""Folds of a table, cleaned and scaled by statistics of the training rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.data.tables import Table, standardised

CLEANINGS = CLIPPED, IMPUTED, DROPPED, ZEROS = "imputed and clipped", "imputed", "rows dropped", "gaps as 0"
SCALINGS = STANDARDISED, TO_ONE, UNSCALED = "standardised", "to [0, 1]", "unscaled"
TAIL = 0.01
"""Share of the training rows clipped on each side."""


class Fold(NamedTuple):
    """Training, validation and test rows."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def draw_folds(count: int, folds: int, seed: int, most: int = 1_000_000) -> list[Fold]:
    """Cuts at most `most` rows into equal parts; each is the test set of a fold and the validation set of the previous.

    Rows beyond a multiple of `folds` are left out.

    >>> [fold.test.size for fold in draw_folds(11, 5, seed=0)], draw_folds(11, 5, seed=0)[0].train.size
    ([2, 2, 2, 2, 2], 6)
    """
    parts = np.random.default_rng([seed, 2]).permutation(count)[: min(count, most) // folds * folds].reshape(folds, -1)
    found = []
    for number in range(folds):
        after = (number + 1) % folds
        rest = np.delete(parts, (number, after), axis=0).ravel()
        found.append(Fold(rest, parts[after], parts[number]))
    return found


def clean(features: np.ndarray, train: np.ndarray, how: str) -> np.ndarray:
    """Fills gaps, by the median of the training rows or by 0, and clips to quantiles of the training rows.

    Args:
        features: [N, D], NaN where a number is missing.
        train: The training rows.
        how: One of `CLEANINGS`; "rows dropped" fills the gaps of all other rows, because they must be predicted.

    >>> clean(np.array([[1.0], [3.0], [np.nan], [5.0]]), np.array([0, 1, 2]), IMPUTED).ravel().tolist()
    [1.0, 3.0, 2.0, 5.0]
    """
    if how == ZEROS:
        return np.nan_to_num(features, nan=0.0)
    seen = features[train]
    filled = np.where(np.isnan(features), np.nanmedian(seen, 0), features)
    return np.clip(filled, *np.nanquantile(seen, (TAIL, 1 - TAIL), axis=0)) if how == CLIPPED else filled


def kept(features: np.ndarray, train: np.ndarray, how: str) -> np.ndarray:
    """The remaining training rows: all, unless rows with gaps are dropped."""
    return train[~np.isnan(features[train]).any(1)] if how == DROPPED else train


def scale(features: np.ndarray, train: np.ndarray, how: str) -> np.ndarray:
    """Scales columns to mean 0 and standard deviation 1, or to 0 .. 1, on the training rows, or not at all.

    A column that is constant on them becomes 0.

    >>> scale(np.array([[2.0], [4.0], [8.0]]), np.array([0, 1]), TO_ONE).ravel().tolist()
    [0.0, 1.0, 3.0]
    """
    if how == STANDARDISED:
        return standardised(features[train], features)[1]
    if how == UNSCALED:
        return features.astype(np.float32)
    low, high = features[train].min(0), features[train].max(0)
    return ((features - low) / np.where(high > low, high - low, np.inf)).astype(np.float32)


def prepare(table: Table, fold: Fold, cleaning: str, scaling: str) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, D] of all rows, and the rows to train on."""
    train = kept(table.features, fold.train, cleaning)
    return scale(clean(table.features, train, cleaning), train, scaling), train


class Stacked(NamedTuple):
    """A table as each fold prepares it, one below the other.

    Attributes:
        pool: F * N examples: features "x", targets "y" (of a regression standardised by its training rows), "positive"
            (divided by their mean) and the number of the "row".
        folds: The rows of each fold, as rows of the pool.
        centres: Mean of the training targets of each fold; 0 for a classification.
        spreads: Their standard deviation; 1 for a classification.
    """

    pool: dict[str, np.ndarray]
    folds: list[Fold]
    centres: np.ndarray
    spreads: np.ndarray

    def part(self, fold: int) -> dict[str, np.ndarray]:
        """All N examples as a fold prepares them."""
        count = len(self.pool["y"]) // len(self.folds)
        return {name: leaf[fold * count : (fold + 1) * count] for name, leaf in self.pool.items()}


def stack_folds(table: Table, folds: Sequence[Fold], cleaning: str, scaling: str, share: float, least: int) -> Stacked:
    """Prepares a table for each fold.

    Args:
        table: N rows.
        folds: F of them.
        cleaning: One of `CLEANINGS`.
        scaling: One of `SCALINGS`.
        share: Share of the training rows to keep.
        least: Minimum number of training rows to keep.
    """
    count, leaves, rows, scales = len(table), [], [], []
    for number, fold in enumerate(folds):
        short = fold._replace(train=fold.train[: max(least, round(share * len(fold.train)))])
        x, train = prepare(table, short, cleaning, scaling)
        seen = table.target[train].astype(np.float64)
        centre, spread = (seen.mean(), seen.std()) if table.target.dtype.kind == "f" else (0.0, 1.0)
        targets = {"y": (table.target - centre) / spread, "positive": table.target / (seen.mean() or 1.0)}
        leaves.append({"x": x} | {name: values.astype(np.float32) for name, values in targets.items()})
        rows.append(Fold(*(part + number * count for part in short._replace(train=train))))
        scales.append((centre, spread))
    pool = {name: np.concatenate([leaf[name] for leaf in leaves]) for name in leaves[0]}
    centres, spreads = np.transpose(scales)
    return Stacked(pool | {"row": np.arange(len(pool["y"]), dtype=np.int32)}, rows, centres, spreads)
