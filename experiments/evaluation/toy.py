"""Pictures of a network with one input, and a worked example of its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import lossfns
from experiments.evaluation.pictures import line_panels
from experiments.study import Run
from experiments.study.report import mean_curves
from train.records import plots
from train.records.report import Image, Table


def draw_beliefs(folder: Path, rows: Sequence[Mapping[str, Any]], labels: str, grid: np.ndarray, truth: Any) -> Image:
    """Draws the learnt probability over the inputs; mean and spread over runs.

    Args:
        folder: The study's folder.
        rows: The runs, with "labels", "method" and the predicted probabilities "believed" [G].
        labels: Name of the labels learnt.
        grid: Inputs [G].
        truth: Probabilities [G].
    """
    learnt: dict[str, Any] = {}
    for row in (row for row in rows if row["labels"] == labels):
        learnt.setdefault(row["method"], []).append(row["believed"])
    path = plots.lines_with_spread(
        folder / "plots" / f"believed_{labels}.png",
        grid.tolist(),
        {"truth": truth[:, None], **{method: np.transpose(p) for method, p in learnt.items()}},
        xlabel="input x",
        ylabel="p(1 | x)",
        title=f"What is learnt of {labels} labels",
        limits=(0.0, 1.0),
    )
    return Image(path.relative_to(folder), f"Learnt probability of the label 1, {labels} labels")


def draw_learning(run: Run, best: Mapping[str, float]) -> Image:
    """Draws the cross-entropy of all training and validation examples during training; means over runs.

    Args:
        run: The study, with runs of the settings "labels", "method" and "seed".
        best: The lowest cross-entropy that is possible, by labels.
    """
    folders: dict[tuple[str, str], list[Path]] = {}
    for setting, _ in run.known.values():
        place = run.folder(**setting).path
        if (place / "metrics.jsonl").exists():  # a baseline has none
            folders.setdefault((setting["labels"], setting["method"]), []).append(place)
    names = {"train_bce": "training data", "bce": "validation data"}
    panels = {" labels, ".join(kind): mean_curves(of, "validation", names) for kind, of in folders.items()}
    floors = [{"best possible": best[labels]} for labels, _ in folders]
    path = run.path / "plots" / "learning.png"
    line_panels(path, panels, xlabel="step", ylabel="cross-entropy (nats)", references=floors)
    return Image(path.relative_to(run.path), "Learning curves of whole data sets, means over runs")


def worked_example() -> Table:
    """A tutorial's example: target (0.9, 0.1), prediction (0.8, 0.2), and a mean over the two classes.

    -(0.9 ln 0.8 + 0.1 ln 0.2) = 0.2008 + 0.1609 = 0.3618, and half of it is 0.1809; the tutorial prints 0.176.

    >>> [f"{value:.4f}" for _, value in worked_example().rows]
    ['0.3618', '0.1809', '0.1760']
    """
    whole = float(lossfns.soft_cross_entropy(jnp.log(jnp.array([[0.8, 0.2]])), jnp.array([[0.9, 0.1]]))[0])
    rows = [
        ["sum over the classes", whole],
        ["mean over the classes, the formula of the tutorial", whole / 2],
        ["as the tutorial prints it", 0.176],
    ]
    return Table(["cross-entropy of the prediction (0.8, 0.2) for the target (0.9, 0.1)", "nats"], rows)
