"""Calibration and other metrics of a probabilistic classifier, with their plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import f1_score, roc_auc_score

from train.records import plots
from train.records.report import Image

BINS = 10
"""Bins of equal width over the probability of the predicted class."""


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Mean distance of accuracy and confidence over bins of equal width, weighted by the examples in each.

        ECE = sum_b n_b / n |accuracy_b - confidence_b|

    Args:
        probabilities: [N, K].
        labels: [N].
        bins: Bins of the confidence, the probability of the predicted class; (0, 1/bins] is the first.

    References:
        Guo et al. 2017, arXiv:1706.04599.

    >>> sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])  # right, wrong, right
    >>> round(expected_calibration_error(sure, np.array([0, 1, 1])), 4)  # 2/3 |1/2 - 0.9| + 1/3 |1 - 0.6|
    0.4
    """
    right = probabilities.argmax(-1) == labels
    count, accuracy, confidence = reliability(probabilities.max(-1), right, bins)
    return float(np.sum(count * np.abs(accuracy - confidence)) / len(labels))


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, ...]:
    """Examples, accuracy and mean confidence of each bin; an empty bin has accuracy and confidence 0.

    Args:
        confidence: [N], the probability of the predicted class.
        right: [N], whether that class is the true one.
        bins: Bins of equal width.

    >>> [part.tolist() for part in reliability(np.array([0.8, 0.5]), np.array([True, False]), bins=2)]
    [[1.0, 1.0], [0.0, 1.0], [0.5, 0.8]]
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count, rights, total = (np.bincount(place, weights, bins) for weights in (np.ones(len(right)), right, confidence))
    least = np.maximum(count, 1)
    return count, rights / least, total / least


def area_under_roc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve; for several classes, the mean over those that occur, one against the rest.

    >>> area_under_roc(np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]]), np.array([0, 1, 1]))
    1.0
    """
    classes = range(probabilities.shape[1])
    present = [k for k in classes if 0 < (labels == k).sum() < len(labels)]
    return float(np.mean([roc_auc_score(labels == k, probabilities[:, k]) for k in present]))


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy in nats, with probabilities of at least 1e-12.

    >>> round(log_loss(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1])), 4)  # (log 2 + log 4/3) / 2
    0.4904
    """
    return float(np.mean(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12))))


def judge(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, area under the ROC curve, F1 of the rarest class, and expected calibration error."""
    predicted = probabilities.argmax(-1)
    rarest = int(np.bincount(labels, minlength=probabilities.shape[1]).argmin())
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "auc": area_under_roc(probabilities, labels),
        "rare_f1": float(f1_score(labels == rarest, predicted == rarest, zero_division=0.0)),
        "ece": expected_calibration_error(probabilities, labels),
    }


def draw_reliability(folder: Path, series: Mapping[str, Sequence[Any]], title: str) -> Image:
    """Draws accuracy against confidence, and below it the number of texts in each bin.

    Args:
        folder: The folder of the study.
        series: By method, count, accuracy and confidence of each bin, as from `reliability`.
        title: Heading of the picture.
    """
    path = folder / "plots" / "reliability.png"
    with plots.drawing(path, (5.6, 5.6), title) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], color="grey", ls=":", label="calibrated")
        for number, (name, parts) in enumerate(series.items()):
            count, accuracy, confidence = (np.asarray(part, float) for part in parts)
            kept = count > 0
            look: Any = {"color": plots.colour(number), "ls": plots.dash(number), "marker": "o", "ms": 4}
            above.plot(confidence[kept], accuracy[kept], label=name, **look)
            below.plot(confidence[kept], count[kept], **look)
        least = min(float(np.min(np.asarray(parts[2])[np.asarray(parts[0]) > 0])) for parts in series.values())
        above.set(ylabel="share that is right", ylim=(0, 1), xlim=(max(0.0, least - 0.05), 1.0))
        below.set(xlabel="probability of the predicted class", ylabel="texts", ylim=(0, None))
        plots.legend_below(figure, True)
    return Image(
        path.relative_to(folder), "Reliability: how often a prediction is right, by the probability it is given"
    )


def draw_confusion(folder: Path, counts: Any, classes: Sequence[str], title: str) -> Image:
    """Draws the counts of true and predicted classes."""
    path = folder / "plots" / "confusion.png"
    plots.confusion_matrix(path, counts, [name[:24] for name in classes], title=title)
    return Image(path.relative_to(folder), "Confusion matrix: true classes by row, predicted ones by column")
