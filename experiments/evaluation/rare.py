"""Metrics for classes of which some are rare; no single one is sufficient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, recall_score

from experiments.study.workdir import Run
from train.records import plots
from train.records.report import Image, Table

METRICS = ("balanced_accuracy", "macro_f1", "average_precision", "tuned_f1")
DRAWN = ("cross-entropy", "class weights", "focal", "balanced softmax", "LDAM", "soft F1")
"""Methods drawn if they were run; more lines could not be told apart."""
_STRENGTHS = np.geomspace(0.02, 50, 40)
OFFSETS = np.concatenate([-_STRENGTHS[::-1], [0.0], _STRENGTHS])
"""Strengths of the offset to try; 0 is none, 1 subtracts the logarithm of the class's share."""


def f1_of(scores: np.ndarray, labels: np.ndarray) -> float:
    """F1 averaged over the classes that occur in labels or predictions.

    >>> round(f1_of(np.eye(3)[[0, 0, 1]], np.array([0, 1, 1])), 4)  # 2 / 3 for both; class 2 never occurs
    0.6667
    """
    said, classes = scores.argmax(-1), scores.shape[-1]
    both = np.bincount(labels, minlength=classes) + np.bincount(said, minlength=classes)
    right = np.bincount(labels[said == labels], minlength=classes)
    return float(np.mean(2 * right[both > 0] / both[both > 0]))


def tune_offset(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The offset [V] to subtract from the scores for the best F1: a multiple of the log of each class's training share.

    With two classes this is a threshold; with more, one strength for all classes.

    Args:
        scores: [N, V], on validation data.
        labels: [N].
        counts: [V], training examples of each class.

    >>> scores = np.log(np.array([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.95, 0.05]]))
    >>> labels = np.array([0, 1, 1, 0])
    >>> f1_of(scores - tune_offset(scores, labels, np.array([9.0, 1.0])), labels)
    1.0
    """
    log_share = np.log(np.maximum(counts, 1) / counts.sum())
    best = max(OFFSETS, key=lambda strength: (f1_of(scores - strength * log_share, labels), -abs(strength)))
    return np.asarray(best * log_share)


def measure_rare(scores: np.ndarray, labels: np.ndarray, offset: np.ndarray, order: np.ndarray) -> dict[str, Any]:
    """All metrics.

    Args:
        scores: [N, V]; the largest is predicted.
        labels: [N].
        offset: [V], from `tune_offset`.
        order: [V], classes from the most frequent to the rarest.

    Returns:
        `balanced_accuracy`, `macro_f1`, `average_precision` (for the rarer of two classes; else the mean over classes,
        one against the rest), `tuned_f1` after the offset, `rare_recall` (mean over the rarest third of the classes)
        and `recalls` from the most frequent class to the rarest.
    """
    classes = scores.shape[-1]
    recalls = recall_score(labels, scores.argmax(-1), labels=order, average=None, zero_division=0)
    top = scores - scores.max(-1, keepdims=True)
    shares = np.exp(top) / np.exp(top).sum(-1, keepdims=True)
    wanted = [order[-1]] if classes == 2 else [k for k in range(classes) if (labels == k).any()]
    return {
        "balanced_accuracy": float(np.mean(recalls[np.isin(order, labels)])),
        "macro_f1": f1_of(scores, labels),
        "average_precision": float(np.mean([average_precision_score(labels == k, shares[:, k]) for k in wanted])),
        "tuned_f1": f1_of(scores - offset, labels),
        "rare_recall": float(np.mean(recalls[-max(1, classes // 3) :])),
        "recalls": recalls.tolist(),
    }


def ranking(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The mean of each metric and the rank of each method by it, the best by balanced accuracy first."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    means = np.array([[np.mean([r[m] for r in rows if r["method"] == name]) for m in METRICS] for name in methods])
    ranks = (-means).argsort(0).argsort(0) + 1
    lines = [
        [methods[i], *(f"{v:.3f} ({rank})" for v, rank in zip(means[i], ranks[i], strict=True))]
        for i in np.argsort(ranks[:, 0])
    ]
    return Table([title, *METRICS], lines)


def draw_recalls(run: Run, rows: Sequence[Mapping[str, Any]]) -> Image:
    """Draws the recall of each class, the most frequent first, for at most 6 methods; mean and spread over runs."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    kept = [m for m in methods if m in DRAWN] or methods[:6]
    series = {m: np.transpose([row["recalls"] for row in rows if row["method"] == m]) for m in kept}
    path = run.path / "plots" / "recalls.png"
    places = list(range(1, len(series[kept[0]]) + 1))
    plots.lines_with_spread(
        path,
        places,
        series,
        xlabel="class, from the most frequent to the rarest",
        ylabel="recall on the test",
        limits=(0.0, 1.0),
        title="What a loss does for rare classes",
    )
    return Image(path.relative_to(run.path), "Recall of each class by how frequent it is in training")
