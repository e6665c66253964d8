"""Metrics on the host, as functions of sums over all of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from train.errors import UsageError
from train.objective import Term

Pair = tuple[Any, Any]
"""A sum and the sum of its weights, on the host or on devices."""
Metrics = Mapping[str, Pair]
Average = Literal["macro", "micro"]


def means(metrics: Metrics) -> dict[str, float]:
    """Returns `sum / weight` of each metric as a float; NaN where the weight is 0.

    Args:
        metrics: `{name: (sum, weight)}` from a step. Counts (`Term(keep=...)`), which are arrays, are left out.

    Returns:
        `{name: mean}`.

    >>> means({"loss": (6.0, 4.0), "rare": (0.0, 0.0)})
    {'loss': 1.5, 'rare': nan}
    """
    pairs = {name: pair for name, pair in jax.device_get(dict(metrics)).items() if np.ndim(pair[0]) == 0}
    return {name: _ratio(float(total), float(weight)) for name, (total, weight) in pairs.items()}


def accumulate(total: Metrics | None, metrics: Metrics) -> dict[str, Pair]:
    """Adds the sums of one more batch, in float64 on the host.

    Args:
        total: The sums so far; None or empty at the start.
        metrics: `{name: (sum, weight)}` of a batch.

    Returns:
        The new sums. With several terms, or batches of different weight, the mean of `"loss"` over batches is not the
        loss of the data; use `weighted_loss`.

    >>> total = accumulate(None, {"loss": (6.0, 4.0)})
    >>> means(accumulate(total, {"loss": (4.0, 1.0)}))
    {'loss': 2.0}
    """
    new = {
        name: (np.asarray(value, np.float64), np.asarray(weight, np.float64))
        for name, (value, weight) in jax.device_get(dict(metrics)).items()
    }
    if not total:
        return new
    if set(total) != set(new):
        raise UsageError(f"sums of {sorted(total)} cannot be added to sums of {sorted(new)}: use one evaluation step.")
    return {name: (total[name][0] + value, total[name][1] + weight) for name, (value, weight) in new.items()}


def weighted_loss(metrics: Metrics, loss_weights: Mapping[str, float]) -> float:
    """Returns the sum over terms of `loss_weight * sum / weight`; a term with total weight 0 counts 0, as in training.

    >>> weighted_loss({"mlm": (6.0, 4.0), "nsp": (1.0, 2.0)}, {"mlm": 1.0, "nsp": 0.5})
    1.75
    """
    averages = means({name: metrics[name] for name in loss_weights})
    return sum(rate * averages[name] for name, rate in loss_weights.items() if not math.isnan(averages[name]))


def perplexity(nll: Pair) -> float:
    """Returns `exp(sum / weight)` of a negative log-likelihood in nats; infinite where that overflows.

    >>> round(perplexity((math.log(8.0) * 5, 5.0)), 6)
    8.0
    """
    with np.errstate(over="ignore"):
        return float(np.exp(_ratio(float(nll[0]), float(nll[1]))))


def bits_per_byte(nll: Pair, byte_count: float) -> float:
    """Returns `sum / (ln 2 * bytes)`: unlike perplexity, comparable between tokenisers.

    Args:
        nll: `(sum, weight)` of the negative log-likelihood of all tokens, in nats; the weight is not used.
        byte_count: Number of bytes of the text that these tokens spell.

    >>> bits_per_byte((math.log(2.0) * 30, 10), 15)
    2.0
    """
    return _ratio(float(nll[0]), math.log(2.0) * float(byte_count))


def confusion_term(predictions: Any, labels: Any, num_classes: int, *, where: Any = None) -> Term:
    """Counts pairs of label and prediction, as a term to report (not to train on).

    Args:
        predictions: Integer classes, any shape.
        labels: Integer classes of the same shape. A pair with a class outside `[0, num_classes)` is not counted.
        num_classes: Number of classes K.
        where: Booleans of the same shape: which pairs count.

    Returns:
        A term that sums to the matrix `[K, K]` of counts, labels in rows and predictions in columns.

    >>> confusion_term(jnp.array([0, 1, 1]), jnp.array([0, 0, 1]), 2).sums()[0].tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    predictions, labels = jnp.asarray(predictions), jnp.asarray(labels)
    counts = (labels >= 0) & (labels < num_classes) & (predictions >= 0) & (predictions < num_classes)
    counts = counts if where is None else counts & jnp.asarray(where, bool)
    index = jnp.where(counts, labels * num_classes + predictions, 0).ravel()
    flat = jnp.zeros(num_classes * num_classes, jnp.float32).at[index].add(counts.ravel().astype(jnp.float32))
    return Term(flat.reshape(num_classes, num_classes), keep=2)


def counts_from_confusion(confusion: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns true positives, false positives and false negatives of each class, `[K]` each.

    >>> [x.tolist() for x in counts_from_confusion([[3, 1], [0, 2]])]
    [[3.0, 2.0], [0.0, 1.0], [1.0, 0.0]]
    """
    matrix = np.asarray(confusion, np.float64)
    hits = np.diagonal(matrix)
    return hits, matrix.sum(0) - hits, matrix.sum(1) - hits


def precision_from_counts(tp: Any, fp: Any) -> np.ndarray:
    """Returns `tp / (tp + fp)`, elementwise; 0 where there are no predictions.

    >>> precision_from_counts([3, 0], [1, 0]).tolist()
    [0.75, 0.0]
    """
    return _divide(np.asarray(tp, np.float64), np.asarray(tp, np.float64) + np.asarray(fp, np.float64))


def recall_from_counts(tp: Any, fn: Any) -> np.ndarray:
    """Returns `tp / (tp + fn)`, elementwise; 0 where there are no labels.

    >>> recall_from_counts(3, 3).tolist()
    0.5
    """
    return precision_from_counts(tp, fn)


def f1_from_counts(tp: Any, fp: Any, fn: Any) -> np.ndarray:
    """Returns `2 tp / (2 tp + fp + fn)`, elementwise; 0 where all are 0.

    >>> f1_from_counts([3, 0], [1, 0], [1, 0]).tolist()
    [0.75, 0.0]
    """
    twice = 2 * np.asarray(tp, np.float64)
    return _divide(twice, twice + np.asarray(fp, np.float64) + np.asarray(fn, np.float64))


def accuracy(confusion: Any) -> float:
    """Returns the fraction on the diagonal; NaN for an empty matrix.

    >>> accuracy([[3, 1], [0, 4]])
    0.875
    """
    matrix = np.asarray(confusion, np.float64)
    return _ratio(float(np.trace(matrix)), float(matrix.sum()))


def precision(confusion: Any, average: Average = "macro") -> float:
    """Returns the precision: the mean over classes (macro) or of all decisions together (micro); see `f1`.

    >>> precision([[3, 1], [0, 2]])  # (3/3 + 2/3) / 2
    0.8333333333333333
    """
    tp, fp, fn = counts_from_confusion(confusion)
    return _average(precision_from_counts, (tp, fp), tp + fp + fn > 0, average)


def recall(confusion: Any, average: Average = "macro") -> float:
    """Returns the recall: the mean over classes (macro) or of all decisions together (micro); see `f1`.

    >>> recall([[3, 1], [0, 2]])  # (3/4 + 2/2) / 2
    0.875
    """
    tp, fp, fn = counts_from_confusion(confusion)
    return _average(recall_from_counts, (tp, fn), tp + fp + fn > 0, average)


def f1(confusion: Any, average: Average = "macro") -> float:
    """Returns F1: the mean over classes (macro) or of all decisions together (micro).

    Args:
        confusion: Counts `[K, K]`, labels in rows and predictions in columns.
        average: `"macro"` weights classes equally; with one label per example, `"micro"` is the accuracy.

    Returns:
        F1; NaN for an empty matrix.

    Conventions: as in scikit-learn, macro leaves out a class that occurs neither in labels nor in predictions, and
    averages the F1 of classes (the F1 of averaged precision and recall is another number).

    >>> f1([[1, 1, 0], [0, 1, 0], [0, 0, 0]])  # class 0: 2/3, class 1: 2/3, class 2 never occurs
    0.6666666666666666
    """
    tp, fp, fn = counts_from_confusion(confusion)
    return _average(f1_from_counts, (tp, fp, fn), tp + fp + fn > 0, average)


def _average(score: Any, counts: tuple[np.ndarray, ...], occurs: np.ndarray, average: str) -> float:
    if average not in ("macro", "micro"):
        raise UsageError(f"average {average!r} is unknown: choose 'macro' or 'micro'.")
    if not occurs.any():
        return math.nan
    return float(np.mean(score(*counts)[occurs])) if average == "macro" else float(score(*(x.sum() for x in counts)))


def _ratio(total: float, weight: float) -> float:
    return total / weight if weight != 0 else math.nan


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.where(denominator == 0, 0.0, numerator / np.where(denominator == 0, 1.0, denominator))
