"""Metrics of predictions on a table, and plots of errors over data, capacity and penalties."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

import lossfns
from experiments.baselines.tables import BOOSTING, fit_best
from experiments.data.folds import CLIPPED, STANDARDISED, Fold, Stacked, prepare
from experiments.data.tables import Table
from experiments.evaluation.pictures import line_panels
from experiments.models.pipelines import CE, EXPECTILE, GAUSSIAN, LEVEL, MSE, POISSON, QUANTILE, log_variance
from train import metrics
from train.records import report

Row = Mapping[str, Any]
METRICS = {
    "classification": ("test_loss", "accuracy", "precision", "recall", "f1", "train_loss", "validation_loss"),
    "regression": ("test_loss", "rmse", "mae", "nll", "quantile_loss", "coverage", "expectile_loss", "train_loss"),
}
"""Metrics in the report; precision, recall and F1 are for the rarer class, bad credits."""


def mean_of(loss: Callable[..., jax.Array], *arrays: Any, **options: Any) -> float:
    """The mean of a loss of arrays."""
    return float(jnp.mean(loss(*(jnp.asarray(array, jnp.float32) for array in arrays), **options)))


NORMAL = float(norm.ppf(LEVEL))
"""The quantile at this level of the normal distribution with mean 0 and standard deviation 1."""


def measure_classes(log_odds: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Cross-entropy (nats) and accuracy; precision, recall and F1 of class 1.

    >>> found = measure_classes(np.array([2.0, 2.0, -2.0, -2.0]), np.array([1, 0, 0, 0]))
    >>> [found[name] for name in ("accuracy", "precision", "recall")], round(found["f1"], 3)
    ([0.75, 0.5, 1.0], 0.667)
    """
    said = (log_odds > 0).astype(int)
    confusion = metrics.confusion_term(said, targets, 2).sums()[0]
    hits, false, missed = (counts[1] for counts in metrics.counts_from_confusion(confusion))
    return {
        "test_loss": mean_of(lossfns.sigmoid_cross_entropy, log_odds, targets),
        "accuracy": metrics.accuracy(confusion),
        "precision": float(metrics.precision_from_counts(hits, false)),
        "recall": float(metrics.recall_from_counts(hits, missed)),
        "f1": float(metrics.f1_from_counts(hits, false, missed)),
    }


def measure_numbers(points: np.ndarray, targets: np.ndarray, unit: float) -> dict[str, float]:
    """Errors of predicted means or medians.

    Args:
        points: Predictions [N].
        targets: [N].
        unit: Of `test_loss`, the mean squared error: the standard deviation of all targets.
    """
    squared = mean_of(lossfns.squared_error, points, targets)
    absolute = mean_of(lossfns.absolute_error, points, targets)
    return {"test_loss": squared / unit**2, "rmse": squared**0.5, "mae": absolute}


def measure_upper(points: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """The losses of a quantile and of an expectile at `LEVEL`, and the share of targets below the predictions.

    >>> measure_upper(np.array([2.0, 2.0]), np.array([1.0, 3.0]))["coverage"]
    0.5
    """
    return {
        "quantile_loss": mean_of(lossfns.quantile, points, targets, quantile=LEVEL),
        "expectile_loss": mean_of(lossfns.expectile, points, targets, expectile=LEVEL),
        "coverage": float(np.mean(targets <= points)),
    }


def measure_normal(means: np.ndarray, deviations: Any, targets: np.ndarray) -> dict[str, float]:
    """`measure_upper` of the quantile of normal distributions, and their negative log-likelihood (nats).

    Args:
        means: [N].
        deviations: Standard deviations [N], or one.
        targets: [N].
    """
    log_variances = np.broadcast_to(2 * np.log(deviations), means.shape)
    nll = mean_of(lossfns.gaussian_nll, means, log_variances, targets, full=True)
    return measure_upper(means + NORMAL * deviations, targets) | {"nll": nll}


def measure_network(data: Stacked, number: int, loss: str, judged: Any, targets: np.ndarray) -> dict[str, float]:
    """Metrics of a network on the test rows of its fold, and its training objective on the rows of all parts.

    Args:
        data: The table as prepared by the pipeline.
        number: The fold.
        loss: Name of the loss it was trained with.
        judged: Outputs [N, K] and losses [N] of all rows, from `judge`.
        targets: [N], as in the table.
    """
    outputs, losses = (np.asarray(part, np.float64) for part in judged)
    fold = Fold(*(part - number * len(targets) for part in data.folds[number]))
    centre, spread, true = data.centres[number], data.spreads[number], targets[fold.test]
    parts = {"train_loss": fold.train, "validation_loss": fold.validation}
    row = {"seed": number, **sizes(fold)} | {name: float(losses[rows].mean()) for name, rows in parts.items()}
    if loss == CE:
        return row | measure_classes(outputs[fold.test, 0], true)
    points = centre + spread * outputs[:, 0]
    if loss in (QUANTILE, EXPECTILE):
        return row | measure_upper(points[fold.test], true)
    if loss == POISSON:
        points = targets[fold.train].astype(np.float64).mean() * np.exp(outputs[:, 0])
    row |= measure_numbers(points[fold.test], true, float(targets.std()))
    if loss == GAUSSIAN:
        deviations = np.exp(np.asarray(log_variance(outputs[fold.test])) / 2)
        return row | measure_normal(points[fold.test], spread * deviations, true)
    if loss == MSE:
        missed = (points - targets)[fold.validation]
        return row | measure_normal(points[fold.test], np.sqrt(np.mean(missed**2)), true)
    return row


def measure_baseline(table: Table, folds: Sequence[Fold], name: str) -> list[dict[str, float]]:
    """Metrics of a baseline on the test rows of each fold; gradient boosting reads the unprepared table."""
    classify = table.target.dtype.kind == "i"

    loss = functools.partial(mean_of, lossfns.sigmoid_cross_entropy if classify else lossfns.squared_error)
    rows = []
    for number, fold in enumerate(folds):
        x = table.features if name == BOOSTING else prepare(table, fold, CLIPPED, STANDARDISED)[0]
        points, true = fit_best(name, x, table.target, fold, loss), table.target[fold.test]
        unit = float(table.target.std())
        found = measure_classes(points, true) if classify else measure_numbers(points, true, unit)
        rows.append({"seed": number, **sizes(fold), **found})
    return rows


def sizes(fold: Fold) -> dict[str, float]:
    """Numbers of examples, for the correction of the intervals."""
    return {"n_test": len(fold.test), "n_train": len(fold.train)}


def best_rates(tried: Sequence[Row], task: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """For each fold, the rate with the lowest validation loss, and this loss, both [F].

    Args:
        tried: From `many.tune`, with "task", "arm", "rate" and the "losses" of the folds.
        task: The task.
        arm: The arm.
    """
    rows = [row for row in tried if (row["task"], row["arm"]) == (task, arm)]
    losses = np.nan_to_num(np.array([row["losses"] for row in rows], float), nan=np.inf)
    return np.array([row["rate"] for row in rows])[losses.argmin(0)], losses.min(0)


def choose_strengths(
    rows: Sequence[Row], tried: Sequence[Row], families: Mapping[str, Collection[str]]
) -> list[dict[str, Any]]:
    """For each family of arms the rows of the arm that each fold would choose on its validation data.

    Args:
        rows: The tested arms, a row for each fold ("seed").
        tried: As in `best_rates`.
        families: Names of arms by name of the family.
    """
    chosen: list[dict[str, Any]] = []
    for task in dict.fromkeys(row["task"] for row in rows):
        for family, names in families.items():
            of = {(row["arm"], row["seed"]): row for row in rows if row["task"] == task and row["arm"] in names}
            run = [name for name in names if (name, 0) in of]
            if run:
                picks = np.argmin([best_rates(tried, task, name)[1] for name in run], 0)
                chosen += [
                    {**of[run[pick], fold], "arm": family, "strength": run[pick]} for fold, pick in enumerate(picks)
                ]
    return chosen


def table_of_strengths(rows: Sequence[Row], families: Mapping[str, Collection[str]]) -> report.Table:
    """The number of folds that chose each strength, for each family."""
    lines = []
    for task, family in dict.fromkeys((row["task"], row["arm"]) for row in rows if row["arm"] in families):
        picks = Counter(row["strength"] for row in rows if (row["task"], row["arm"]) == (task, family))
        of = [f"{name.removeprefix(family).strip()}: {picks[name]}" for name in families[family] if picks[name]]
        strengths = [*families[family]]
        lines.append([task, family, ", ".join(of), picks[strengths[0]] + picks[strengths[-1]]])
    return report.Table(["task", "penalty", "strength: folds that chose it", "folds at an edge"], lines)


def table_of_rates(tried: Sequence[Row]) -> report.Table:
    """The rates tried, the rates chosen by the folds, and how many folds chose one at the edge of the grid."""
    lines = []
    for task, arm in dict.fromkeys((row["task"], row["arm"]) for row in tried):
        rates = sorted(row["rate"] for row in tried if (row["task"], row["arm"]) == (task, arm))
        best, _ = best_rates(tried, task, arm)
        edge = sum(rate in (rates[0], rates[-1]) for rate in best)
        lines.append([task, arm, f"{rates[0]:.3g} to {rates[-1]:.3g}", f"{min(best):.3g} to {max(best):.3g}", edge])
    return report.Table(["task", "arm", "rates tried", "chosen by the folds", "folds at the edge"], lines)


def draw_curves(folder: Path, rows: Sequence[Row], curves: Mapping[str, tuple[str, str, Mapping[str, float]]]) -> Any:
    """Draws training and validation loss over the quantity of each curve, in a panel for each task.

    Args:
        folder: The study's folder.
        rows: The runs, with "task", "arm", "train_loss" and "validation_loss".
        curves: By name of the file: the title, the label of the horizontal axis, and arms with their place on it.
    """
    found = []
    for name, (title, label, places) in curves.items():
        panels: dict[str, Any] = {}
        for task in dict.fromkeys(row["task"] for row in rows):
            of = {arm: [r for r in rows if (r["task"], r["arm"]) == (task, arm)] for arm in places}
            run = sorted((place, of[arm]) for arm, place in places.items() if of[arm])
            if len(run) < 2:
                continue
            x = [place for place, _ in run]
            panels[task] = {
                split: (x, [float(np.mean([row[f"{split}_loss"] for row in some])) for _, some in run])
                for split in ("train", "validation")
            }
        if panels:
            path = folder / "plots" / f"{name}.png"
            line_panels(path, panels, xlabel=label, ylabel="loss", log="x")
            found.append(report.Image(f"plots/{name}.png", title))
    return found


def table_of(rows: Sequence[Row], task: str, names: Sequence[str]) -> report.Table:
    """Means over folds of all arms of a task."""
    arms = dict.fromkeys(row["arm"] for row in rows if row["task"] == task)
    of = {arm: [row for row in rows if (row["task"], row["arm"]) == (task, arm)] for arm in arms}
    lines = [
        [arm, *(float(np.mean([row[n] for row in some])) if n in some[0] else "" for n in names)]
        for arm, some in of.items()
    ]
    return report.Table([task, *(name.replace("_", " ") for name in names)], lines)
