"""Accuracy of a language model by token frequency in the training text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.records import plots
from train.records.report import Image, Table

EDGES = (10, 100, 1_000)
"""Edges of the bins: occurrences of a token in the training text."""
BINS = len(EDGES) + 1


def frequency_bins(counts: np.ndarray) -> np.ndarray:
    """Returns the bin of each token of the vocabulary.

    >>> frequency_bins(np.array([0, 10, 99, 5_000])).tolist()
    [0, 1, 1, 3]
    """
    return np.digitize(counts, EDGES)


def report_frequency(workdir: Path, counts: np.ndarray, accuracies: Sequence[float]) -> list[Any]:
    """Returns a report section: a text, a table and a plot.

    Args:
        workdir: Folder of the study.
        counts: Occurrences of each token in the training text.
        accuracies: Accuracy of each bin on the test text; NaN if none of its tokens occurred.
    """
    between = [f"{a:,} to {b - 1:,}" for a, b in itertools.pairwise(EDGES)]
    names = [f"< {EDGES[0]:,}", *between, f"{EDGES[-1]:,} or more"]
    members = np.bincount(frequency_bins(counts), minlength=BINS).tolist()
    plots.bars(
        workdir / "plots" / "accuracy_by_frequency.png",
        {name: [0.0 if np.isnan(value) else value] for name, value in zip(names, accuracies, strict=True)},
        ylabel="masked-LM accuracy, test text",
        title="Accuracy by token frequency in the training text",
    )
    rows = [list(row) for row in zip(names, members, accuracies, strict=True)]
    text = (
        "The masked-LM loss counts each masked token once, so frequent ones dominate it and rare ones are learnt last."
    )
    columns = ["occurrences in training", "tokens of the vocabulary", "masked-LM accuracy"]
    return [text, Table(columns, rows), Image("plots/accuracy_by_frequency.png", "Accuracy by token frequency")]
