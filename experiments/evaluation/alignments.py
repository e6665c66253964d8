"""Pictures of a reader's letter probabilities over the time of an utterance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.log_mel import HOP
from experiments.evaluation.reading import Reader
from experiments.models.speech import STRIDE, probabilities
from train.records import plots
from train.records.report import Image

LEGIBLE = 180
"""Frames of an utterance that is drawn, at most."""


def draw_alignments(
    path: Path,
    features: np.ndarray,
    readers: Mapping[str, np.ndarray],
    alphabet: str,
    length: float,
    unit: str = "seconds",
    title: str = "",
) -> Path:
    """Draws the features of an utterance, and below them each reader's probability of each letter over time.

    Args:
        path: The PNG file.
        features: [T, M].
        readers: Probabilities [T', 1 + letters] by the reader's name; the first class is the blank.
        alphabet: The letters.
        length: Length of the utterance.
        unit: Unit of the length.
        title: Heading of the figure.
    """
    count = 1 + len(readers)
    with plots.drawing(path, (8.0, 2.3 + 2.5 * len(readers)), title) as figure:
        axes = figure.add_subplot(count, 1, 1)
        axes.imshow(features.T, origin="lower", aspect="auto", cmap="Greys", extent=(0, length, 0, features.shape[1]))
        axes.set(title="features", ylabel="band")
        axes.grid(visible=False)
        highest = np.max([said[:, 1:].max(0) for said in readers.values()], 0)
        shown = np.flatnonzero(highest > 0.2)  # the same colours for all readers
        for number, (name, said) in enumerate(readers.items(), 2):
            axes = figure.add_subplot(count, 1, number)
            times = (np.arange(len(said)) + 0.5) * length / len(said)
            axes.plot(times, said[:, 0], color="#aaaaaa", ls=":")
            for index, letter in enumerate(shown.tolist()):
                _draw_letter(axes, times, said, letter, alphabet[letter].replace(" ", "␣"), index)
            axes.set(title=f"{name} (dotted: blank)", ylabel="probability", ylim=(0, 1.2), xlim=(0, length))
            axes.set_xlabel(unit if number == count else "")
    return path


def _draw_letter(axes: Any, times: np.ndarray, said: np.ndarray, letter: int, text: str, index: int) -> None:
    """Draws the probability of a letter over time, labelled at its maximum where it is the likeliest class."""
    line, likeliest = said[:, 1 + letter], said.max(1)
    colour = plots.colour(index % len(plots.COLOURS))
    axes.plot(times, line, color=colour, ls=plots.dash(index // len(plots.COLOURS)))
    for t, value in enumerate(line):
        if value == likeliest[t] and value == line[max(t - 2, 0) : t + 3].max():
            place: Any = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            axes.annotate(text, (times[t], value), color=colour, weight="bold", **place)


def draw_utterance(folder: Path, readers: Mapping[str, Reader], name: str) -> Image:
    """Draws what readers say during the first utterance that is short enough to be read in a picture, or the shortest.

    Args:
        folder: The study's folder.
        readers: Readers with a `FrameReader` by name.
        name: The set.
    """
    corpus = next(iter(readers.values())).corpus
    part = corpus.sets[name]
    short = np.flatnonzero(part.frames <= LEGIBLE)
    row = int(short[0] if short.size else part.frames.argmin())
    frames, features = int(part.frames[row]), part.features[row : row + 1].astype(np.float32)
    said = {
        f'{which}: "{reader.read(name)[row]}"': np.asarray(probabilities(reader.model, reader.params, features))[0]
        for which, reader in readers.items()
    }
    said = {heading: found[: -(-frames // STRIDE)] for heading, found in said.items()}
    title = f'"{part.texts[row]}", of the set {name}'
    step, unit = (HOP, "seconds") if corpus.between else (1, "columns")
    picture = folder / "plots" / "alignment.png"
    draw_alignments(picture, features[0, :frames], said, corpus.alphabet, frames * step, unit, title)
    return Image("plots/alignment.png", "What each says over time, and what it reads")
