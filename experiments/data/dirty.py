"""Raw tables with gaps and outliers: which credits were bad, and the prices of houses.

Both need the extra `tables` and are from the package `modeldata` (MIT): `credit_data` and `ames` (De Cock 2011).
Without it each has a fallback from scikit-learn (BSD-3) without gaps; `Table.name` says which was read.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from experiments.data.tables import Table, has_tables, read_diabetes, read_frame, read_tumours

LEAST_SHARE = 0.05
"""Levels of a category with a smaller share of the rows get no column."""


def read_credit() -> Table:
    """Which of 4,454 credits were bad (1,254), with 21 features; without the extra, scikit-learn's `breast_cancer`.

    Returns:
        Features with NaN where a number is missing; the target is 1 for a bad credit.
    """
    if not has_tables():
        return read_tumours()
    frame = read_frame("modeldata", "credit_data")
    features, columns = encode(frame.drop(columns="Status"))
    return Table("modeldata/credit_data", features, (frame["Status"] == "bad").to_numpy(np.int32), columns)


def read_houses() -> Table:
    """Prices of 2,930 houses in thousands of dollars, with 129 features; without the extra, scikit-learn's `diabetes`.

    Returns:
        Features with NaN for the 490 unknown widths of a plot, which the package gives as 0.
    """
    if not has_tables():
        return read_diabetes()
    frame = read_frame("modeldata", "ames")
    frame["Lot_Frontage"] = frame["Lot_Frontage"].replace(0, np.nan)
    features, columns = encode(frame.drop(columns="Sale_Price"))
    return Table("modeldata/ames", features, (frame["Sale_Price"] / 1_000).to_numpy(np.float32), columns)


def encode(columns: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers unchanged, and a column of 0 and 1 for each common level of a category; a gap in a category is 0.

    Args:
        columns: A data frame of N rows, or arrays [N] by name.

    Returns:
        float32 [N, D], and the names of the columns.

    >>> home = np.array(["owner", "rent"], object)
    >>> features, names = encode({"age": np.array([30.0, np.nan]), "home": home})
    >>> names, features.tolist()
    (('age', 'home owner', 'home rent'), [[30.0, 1.0, 0.0], [nan, 0.0, 1.0]])
    """
    found: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        if column.dtype.kind in "iuf":
            found[name] = np.asarray(column, np.float32)
            continue
        cells = np.asarray(column, object)
        counts = Counter(cell for cell in cells if isinstance(cell, str))
        for level in sorted(level for level, count in counts.items() if count >= LEAST_SHARE * len(cells)):
            found[f"{name} {level}"] = (cells == level).astype(np.float32)
    kept = {name: values for name, values in found.items() if np.unique(values).size > 1}
    return np.stack([*kept.values()], 1) if kept else np.zeros((len(columns), 0), np.float32), tuple(kept)
