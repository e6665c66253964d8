"""What `simclr` reports: a picture of the views, the probe's accuracy at each budget of labels, learning curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli
from experiments.data.images import pair_batches
from experiments.models.vision import augment
from experiments.runs import Result, mean_and_spread_of, mean_curves, values_of
from train import plots
from train.files import make_folder, write_atomic
from train.logging import Image, Section, Table, write_report

if TYPE_CHECKING:
    from experiments.simclr import Config, Data

PAIRS = 14
"""Pairs in the picture of views, at most."""


def report(
    config: Config, data: Data, results: list[Result], folders: Mapping[str, Sequence[Path]], workdir: Path
) -> dict[str, Any]:
    """Writes `plots/*.png` and `report.md`, prints the closing table.

    Args:
        config: Of the run.
        data: The images.
        results: One for each method and seed.
        folders: The folders of the trained encoders by method.
        workdir: The run's folder.

    Returns:
        The summary.
    """
    methods = list(dict.fromkeys(r["method"] for r in results))
    columns = ["", *(f"{n} label{'s' if n > 1 else ''} a class" for n in config.budgets)]
    rows = [[m, *(mean_and_spread_of(results, f"accuracy_{n}", method=m) for n in config.budgets)] for m in methods]
    draw_views(config, data, workdir / "plots" / "views.png")
    plots.lines_with_spread(
        workdir / "plots" / "probe.png",
        config.budgets,
        {m: np.asarray([values_of(results, f"accuracy_{n}", method=m) for n in config.budgets]) for m in methods},
        xlabel="labels a class",
        ylabel="accuracy on the test images",
        title="Linear probe",
        log_x=True,
    )
    names = {"nt_xent": "NT-Xent (nats)", "cosine": "cosine of the two views", "cross_entropy": "cross-entropy (nats)"}
    curves = {method: mean_curves(group, "train", names) for method, group in folders.items()}
    plots.learning_curves(workdir / "plots" / "learning_curves.png", curves)
    classes = len(np.unique(data.labelled.label))
    sections = [
        Section(
            "Linear probe",
            [
                _text(config, data, classes),
                Table(columns, rows),
                Image("plots/probe.png", "Accuracy of the probe: mean and standard deviation over seeds"),
            ],
        ),
        Section("Views", [Image("plots/views.png", "Pairs of views, one above the other, as the encoder sees them")]),
        Section("Training", [Image("plots/learning_curves.png", "Batches of the training, mean over seeds")]),
    ]
    write_report(workdir, f"Contrastive learning on {config.data.name}", sections)
    cli.finish(workdir, f"Linear probe, accuracy among {classes} classes", columns, rows)
    return {"classes": classes, "chance": 1 / classes, "runs": results}


def _text(config: Config, data: Data, classes: int) -> str:
    held_out = (
        f"The {classes} classes of the probe are characters that the pretraining lacks, and its test images "
        f"({len(data.test):,}) are in {len(np.unique(data.test.face))} faces that neither pretraining nor probe saw."
        if data.labelled is not data.pretraining and len(np.unique(data.labelled.face)) > 1
        else f"The test images ({len(data.test):,}) are held out from pretraining and probe."
    )
    views = "two faces of one character" if data.faces else "one image twice"
    return (
        f"Encoders are trained on {len(data.pretraining):,} images for {config.steps:,} steps of {config.batch_size} "
        f"pairs ({views}, both augmented), then frozen; logistic regression on their representations tells "
        f"{classes} classes apart (chance: {1 / classes:.3f}). {held_out} Mean ± standard deviation over "
        f"{config.seeds} seeds, each with weights and labels of its own."
    )


def draw_views(config: Config, data: Data, path: Path) -> None:
    """Saves a picture of some pairs of views as they are trained on."""
    from matplotlib.image import imsave

    pairs = min(PAIRS, config.batch_size)
    batch = next(pair_batches(data.pretraining, batch_size=pairs, seed=config.seed, faces=data.faces))
    images = np.concatenate([batch["view_a"], batch["view_b"]]) / np.float32(data.scale)
    views = np.clip(augment(jax.random.key(config.seed), jnp.asarray(images), config.augment), 0, 1)
    height, width = views.shape[1:3]
    bordered = np.pad(views.mean(-1), ((0, 0), (1, 1), (1, 1)), constant_values=0.5)
    grid = bordered.reshape(2, pairs, height + 2, width + 2).transpose(0, 2, 1, 3).reshape(2 * (height + 2), -1)
    zoom = max(1, 56 // height)
    buffer = io.BytesIO()
    ink_on_paper = 1 - np.kron(grid, np.ones((zoom, zoom)))
    imsave(buffer, ink_on_paper, cmap="gray", vmin=0, vmax=1, format="png")
    make_folder(path.parent)
    write_atomic(path, buffer.getvalue())
