"""Metrics of models trained on wrong labels or with outliers, and plots of what they memorise during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.baselines.robust import neighbours
from experiments.data.draws import Pool
from experiments.data.tables import PLAUSIBLE
from experiments.study import many
from experiments.study.compare import label_of
from experiments.study.grid import Row
from experiments.study.many import Bench
from experiments.study.report import mean_curves
from experiments.study.workdir import Run
from train.records import plots
from train.records.report import Image


def root_mean_square(said: np.ndarray, y: np.ndarray, _: np.ndarray | None = None) -> float:
    """The root of the mean squared error.

    >>> root_mean_square(np.array([0.0, 0.0]), np.array([3.0, 4.0]))
    3.5355339059327378
    """
    return float(np.sqrt(np.mean(np.square(said - y))))


def error_of_heights(said: np.ndarray, y: np.ndarray, x: np.ndarray) -> float:
    """Mean error, over the sexes, of the predicted mean height against the mean of the plausible entries, in inches.

    The inputs x [N, 1] are 1 for men.

    >>> error_of_heights(np.array([64.0, 70.0, 70.0]), np.array([65.0, 69.0, 180.0]), np.array([[0], [1], [1]]))
    1.0
    """
    man = x[:, 0]
    plausible = (y >= PLAUSIBLE[0]) & (y <= PLAUSIBLE[1])
    return float(np.mean([abs(said[man == s].mean() - y[(man == s) & plausible].mean()) for s in (0, 1)]))


def vote(bench: Bench, pool: Pool, arm: Row, own: Any) -> list[Row]:
    """A vote of nearest neighbours: the numbers of neighbours tried, or the results of the best number.

    Args:
        bench: The study's bench.
        pool: The examples.
        arm: The setting.
        own: The draw of `draw_noisy`.
    """

    def fit(number: float) -> list[Any]:
        return [
            neighbours(number, pool.x[rows], given[rows]) for rows, given in zip(own["rows"], own["given"], strict=True)
        ]

    def error(number: float) -> float:
        held = zip(fit(number), own["held"], strict=True)
        return 1 - float(np.mean([model.score(pool.x[rows], pool.y[rows]) for model, rows in held]))

    if bench.tuned is None:
        return many.try_values(error, 10)
    best = bench.rate(label_of(arm), 10)
    return many.rows_of({"accuracy": [m.score(pool.test_x, pool.test_y) for m in fit(best)]}, rate=best)


def draw_beliefs(run: Run, settings: Mapping[str, Mapping[str, Any]], title: str, name: str) -> Image:
    """Draws the share of flipped labels that a network predicts as flipped, and the share that it corrects.

    Args:
        run: The study.
        settings: Setting of the training of each method.
        title: Title of the picture.
        name: Name of its file.
    """
    labels = {"memorised": "flipped labels believed", "seen_through": "flipped labels seen through"}
    curves = {m: mean_curves([run.folder(**setting).path], "train", labels) for m, setting in settings.items()}
    path = run.path / "plots" / f"{name}.png"
    plots.learning_curves(path, {method: found for method, found in curves.items() if found}, title=title)
    return Image(path.relative_to(run.path), f"{title}; each point is one batch of all networks")


def draw_losses(run: Run, rows: Sequence[Mapping[str, Any]], errors: np.ndarray) -> Image:
    """Draws the learnt loss over the error for each kind of data; mean and spread over runs.

    Args:
        run: The study.
        rows: Rows with `data`, the share of added `outliers`, and as `loss examples` the loss at each error.
        errors: Errors in standard deviations of right targets.
    """
    learnt: dict[str, list[Any]] = {}
    for row in rows:
        learnt.setdefault(f"{row['data']}, {row['outliers']:.0%} outliers added", []).append(row["loss examples"])
    path = run.path / "plots" / "learnt.png"
    plots.lines_with_spread(
        path,
        errors.tolist(),
        {name: np.transpose(losses) for name, losses in learnt.items()},
        xlabel="error (standard deviations of right targets)",
        ylabel="loss",
        limits=(0.0, 15.0),
        title="The loss that is learnt",
    )
    return Image(path.relative_to(run.path), "Barron's loss with the shape and scale that were learnt")
