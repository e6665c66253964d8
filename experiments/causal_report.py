"""What `causal_lm` reports: the table of bits per byte, plots and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import cli
from experiments.data.load import wording
from experiments.runs import Result, mean_curves, values_of
from train import plots
from train.logging import Image, Section, Table, write_report
from train.report import escape_markdown

if TYPE_CHECKING:
    from experiments.causal_lm import Config


def report(
    config: Config,
    sizes: Mapping[str, int],
    parameters: int,
    results: list[Result],
    baselines: Result,
    samples: Sequence[str],
    folders: Sequence[Path],
    workdir: Path,
) -> dict[str, Any]:
    """Writes `plots/*.png` and `report.md`, prints the closing table.

    Args:
        config: Of the run.
        sizes: Bytes of each split.
        parameters: Number of parameters of a network.
        results: One for each network.
        baselines: Bits per byte of the n-grams and of xz.
        samples: Texts that a network wrote.
        folders: The folder of each network.
        workdir: The run's folder.

    Returns:
        The summary.
    """
    words, order = wording(config.data), baselines["ngram_order"]
    scores = {
        "network": values_of(results, "test_bits_per_byte"),
        f"{order}-gram, Kneser-Ney": [baselines["ngram"]["test"][order - 1]],
        f"xz, after the training {words.parts}": [baselines["xz_after_train"]],
        "xz alone": [baselines["xz"]],
    }
    rows = [
        [name, cli.mean_and_spread(values) if name == "network" else f"{values[0]:.3f}"]
        for name, values in scores.items()
    ]
    sections = [
        _comparison(config, sizes, parameters, scores, rows, results, workdir),
        _training(folders, workdir),
        _orders(baselines, workdir),
        Section(
            "Samples",
            [
                f"Written by the first network at temperature {config.temperature:g}, from the start of a "
                f"{words.document}.",
                *(f"> {escape_markdown(text)}" for text in samples),
            ],
        ),
    ]
    write_report(workdir, f"A causal language model of {words.title}", sections)
    cli.finish(workdir, "Bits per byte, held-out text", ["", "bits per byte"], rows)
    return {
        "parameters": parameters,
        "bytes": dict(sizes),
        "test_bits_per_byte": scores,
        "runs": results,
        "baselines": baselines,
        "samples": list(samples),
    }


def _comparison(
    config: Config,
    sizes: Mapping[str, int],
    parameters: int,
    scores: Mapping[str, list[float]],
    rows: list[list[str]],
    results: list[Result],
    workdir: Path,
) -> Section:
    plots.bars(
        workdir / "plots" / "bits_per_byte.png",
        scores,
        ylabel="bits per byte, test text (less is better)",
        title="Compression of held-out text",
    )
    tokens, document = config.steps * config.batch_size * config.data.seq_len, wording(config.data).document
    text = (
        f"Trained on {sizes['train'] / 1e6:.2f} MB, tested on {sizes['test'] / 1e6:.2f} MB that no model saw; every "
        f"byte counts. The network has {parameters:,} parameters and saw {tokens / 1e6:.1f} M tokens in "
        f"{config.steps:,} steps; mean ± standard deviation over {config.seeds} networks."
    )
    detail = (
        f"Per token: {cli.mean_and_spread(values_of(results, 'test_next_token'))} nats, accuracy "
        f"{cli.mean_and_spread(values_of(results, 'test_accuracy'))}. The network reads at most "
        f"{config.data.seq_len} tokens back and no other {document}; xz and the n-gram run on from {document} to "
        f"{document}."
    )
    image = Image("plots/bits_per_byte.png", "Bits per byte on the test text")
    return Section("Bits per byte", [text, Table(["", "bits per byte"], rows), detail, image])


def _training(folders: Sequence[Path], workdir: Path) -> Section:
    names = {"next_token": "loss (nats per token)", "accuracy": "next-token accuracy", "bits_per_byte": "bits per byte"}
    curves = {split: mean_curves(folders, split, names) for split in ("train", "validation")}
    plots.learning_curves(workdir / "plots" / "learning_curves.png", curves)
    caption = "Mean over the networks; the validation text is held out"
    return Section("Training", [Image("plots/learning_curves.png", caption)])


def _orders(baselines: Result, workdir: Path) -> Section:
    ngram = baselines["ngram"]
    orders = list(range(1, len(ngram["test"]) + 1))
    plots.lines_with_spread(
        workdir / "plots" / "ngram_orders.png",
        orders,
        {split: np.asarray(values)[:, None] for split, values in ngram.items()},
        xlabel="order of the n-gram (bytes)",
        ylabel="bits per byte",
        title="Kneser-Ney n-grams",
    )
    text = f"The order {baselines['ngram_order']} is the best of these on the validation text and is compared above."
    return Section("The n-gram's order", [text, Image("plots/ngram_orders.png", "Bits per byte of each order")])
