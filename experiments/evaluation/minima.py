"""Plots of the minima that training reaches: sharpness, training loss and test error of many networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from experiments.evaluation.pictures import line_panels, scatter
from train.records.report import Image, Table

Row = Mapping[str, Any]


def draw_minima(folder: Path, rows: Sequence[Row]) -> list[Any]:
    """Draws test error over sharpness and sharpness over training loss, with a table of means.

    Args:
        folder: The study's folder.
        rows: One per network: "method", "sharpness", "test_error", "train_loss", "last_sharpness", "passes", and as
            "curve" the training losses and the sharpness at all evaluations.
    """
    of = {row["method"]: [other for other in rows if other["method"] == row["method"]] for row in rows}
    points: dict[str, Any] = {n: [[r[p] for r in some] for p in ("sharpness", "test_error")] for n, some in of.items()}
    ways: dict[str, Any] = {name: np.mean([row["curve"] for row in some], 0).tolist() for name, some in of.items()}
    error, way = (folder / "plots" / name for name in ("error_over_sharpness.png", "sharpness_on_the_way.png"))
    scatter(error, points, xlabel="sharpness at equal training loss", ylabel="test error")
    line_panels(way, {"": ways}, xlabel="training loss (nats)", ylabel="sharpness", log="xy")
    parts = ("train_loss", "sharpness", "last_sharpness", "test_error", "passes")
    means = [[name, *(float(np.mean([row[part] for row in some])) for part in parts)] for name, some in of.items()]
    columns = ["arm", "training loss at the end", "sharpness at equal loss", "sharpness at the end", "test error"]
    return [
        Table([*columns, "passes over the data"], means),
        Image("plots/error_over_sharpness.png", "A point for each network"),
        Image("plots/sharpness_on_the_way.png", "Means over networks; training goes from right to left"),
    ]


def draw_edges(folder: Path, rows: Sequence[Row], every: int) -> list[Image]:
    """Draws the sharpness during gradient descent, and 2 / rate.

    Args:
        folder: The study's folder.
        rows: One per network: "rate", and as "curve" the sharpness at all evaluations.
        every: Steps between two evaluations.
    """
    if not rows:
        return []
    panels: dict[str, dict[str, Any]] = {}
    edges = []
    for rate in dict.fromkeys(row["rate"] for row in rows):
        curve = np.mean([row["curve"] for row in rows if row["rate"] == rate], 0)
        panels[f"rate {rate:g}"] = {"sharpness": ((np.arange(len(curve)) + 1) * every, curve)}
        edges.append({"2 / rate": 2 / rate})
    limits = (0.0, 1.1 * max(float(np.max(row["curve"])) for row in rows))
    path = folder / "plots" / "edge.png"
    line_panels(path, panels, xlabel="step", ylabel="sharpness", references=edges, limits=limits)
    return [Image("plots/edge.png", "Gradient descent on the squared error, means over networks")]


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Returns Spearman's rank correlation of pairs; NaN where one side does not vary.

    >>> [round(rank_correlation(pairs), 3) for pairs in ([(1, 2), (2, 8), (3, 9)], [(1, 2), (1, 8)])]
    [1.0, nan]
    """
    varies = all(len(set(side)) > 1 for side in zip(*pairs, strict=True))
    return float(spearmanr(pairs).statistic) if varies else float("nan")
