"""Results of a search over learning rates for each optimizer: figures and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evaluation.pictures import line_panels
from train.records.report import Image

Row = Mapping[str, Any]
NEAR = 1.1
"""A rate counts as good if its loss is at most this multiple of the lowest."""
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "gradient descent": ("sgd", "momentum", "nesterov", "schedule_free_sgd"),
    "running squares": ("rmsprop", "adagrad", "adadelta", "adafactor", "lamb"),
    "Adam": ("adam", "adamw", "nadamw", "radam", "amsgrad"),
    "further from Adam": ("adamax", "adabelief", "adan", "adopt", "schedule_free_adamw"),
    "signs and matrices": ("lion", "muon", "sophia"),
    "find their own rate": ("prodigy", "dadapt_adamw"),
}
"""The optimizers that share a panel."""


def good_decades(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Width, in powers of ten, of the learning rates within `NEAR` of the lowest loss; linear between two rates.

    >>> round(good_decades([0.1, 1.0, 10.0, 100.0], [3.0, 1.0, 1.0, float("inf")]), 2)
    1.05
    """
    order = np.argsort(rates)
    places = np.log10(np.asarray(rates, np.float64)[order])
    heights = np.nan_to_num(np.asarray(losses, np.float64)[order], nan=1e9, posinf=1e9)
    fine = np.linspace(places[0], places[-1], 20_001)
    return float(np.mean(np.interp(fine, places, heights) <= NEAR * heights.min()) * (places[-1] - places[0]))


def decades_of(tried: Sequence[Row]) -> list[Row]:
    """A row for each tuning seed of one search, with its "good_decades"."""
    seeds = range(len(tried[0]["losses"]))
    rates = [row["rate"] for row in tried]
    return [{"seed": seed, "good_decades": good_decades(rates, [r["losses"][seed] for r in tried])} for seed in seeds]


def draw_rates(folder: Path, searches: Mapping[str, Sequence[Row]]) -> Image:
    """Draws the validation loss of each optimizer over the learning rate, in panels by family.

    Args:
        folder: The study's folder.
        searches: The rates tried, by optimizer.
    """
    panels: dict[str, dict[str, Any]] = {}
    least, most = np.inf, 0.0
    for family, names in FAMILIES.items():
        for name in names:
            rows = [row for row in searches.get(name, ()) if np.isfinite(row["loss"])]
            if rows:
                losses = [row["loss"] for row in rows]
                panels.setdefault(family, {})[name] = ([row["rate"] for row in rows], losses)
                least, most = min(least, *losses), max(most, min(losses))
    path = folder / "plots" / "rates.png"
    limits = (0.95 * least, 3 * most)
    line_panels(path, panels, xlabel="learning rate", ylabel="validation loss", log="xy", limits=limits)
    return Image("plots/rates.png", "Loss over learning rate, means over the tuning seeds")


def draw_ways(folder: Path, rows: Sequence[Row], methods: Sequence[str]) -> Image:
    """Draws the training loss over time, in a panel for each task.

    Args:
        folder: The study's folder.
        rows: One per network: "task", "method", and as "curve" the training loss at all evaluations.
        methods: The methods to draw.
    """
    panels: dict[str, dict[str, Any]] = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        for method in methods:
            curves = [row["curve"] for row in rows if (row["task"], row["method"]) == (task, method)]
            if curves:
                way = np.mean(curves, 0)
                panels.setdefault(task, {})[method] = ((np.arange(len(way)) + 1) / len(way), way)
    line_panels(folder / "plots" / "ways.png", panels, xlabel="part of the training", ylabel="training loss", log="y")
    return Image("plots/ways.png", "Training loss on the way, each optimizer at its best rate; means over networks")
