"""Pictures of what a reader says at each moment of an utterance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.data.log_mel import HOP
from experiments.evaluation.reading import Reader
from experiments.models.speech import STRIDE, probabilities
from train.records import plots
from train.records.report import Image


def draw_alignments(
    path: Path, features: np.ndarray, readers: Mapping[str, np.ndarray], alphabet: str, seconds: float, title: str = ""
) -> Path:
    """The features of an utterance, and below them the probability of each letter over time, a panel for each reader.

    Args:
        path: The PNG file.
        features: [T, M].
        readers: Probabilities [T', 1 + letters] by the reader's name; the first class is the blank.
        alphabet: The letters.
        seconds: How long the utterance is.
        title: Heading of the figure.
    """
    count = 1 + len(readers)
    with plots.drawing(path, (8.0, 2.3 + 2.5 * len(readers)), title) as figure:
        axes = figure.add_subplot(count, 1, 1)
        axes.imshow(features.T, origin="lower", aspect="auto", cmap="Greys", extent=(0, seconds, 0, features.shape[1]))
        axes.set(title="features", ylabel="band")
        axes.grid(visible=False)
        for number, (name, probabilities) in enumerate(readers.items(), 2):
            axes = figure.add_subplot(count, 1, number)
            times = (np.arange(len(probabilities)) + 0.5) * seconds / len(probabilities)
            axes.plot(times, probabilities[:, 0], color="#aaaaaa", ls=":", label="blank")
            shown = np.flatnonzero(probabilities[:, 1:].max(0) > 0.2)
            for index, letter in enumerate(shown):
                line = probabilities[:, 1 + letter]
                colour = plots.colour(index % len(plots.COLOURS))
                axes.plot(times, line, color=colour, ls=plots.dash(index // len(plots.COLOURS)))
                peaks = [t for t in range(len(line)) if line[t] > 0.2 and line[t] == line[max(t - 2, 0) : t + 3].max()]
                for peak in peaks:
                    text = alphabet[letter].replace(" ", "␣")
                    axes.annotate(text, (times[peak], line[peak] + 0.03), color=colour, ha="center", weight="bold")
            axes.set(title=name, ylabel="probability", ylim=(0, 1.15), xlim=(0, seconds))
            axes.set_xlabel("seconds" if number == count else "")
    return path


def draw_utterance(folder: Path, readers: Mapping[str, Reader], name: str, row: int) -> Image:
    """Draws what readers say during an utterance.

    Args:
        folder: The study's folder.
        readers: Readers with a `FrameReader` by name.
        name: The set.
        row: The utterance.
    """
    corpus = next(iter(readers.values())).corpus
    part = corpus.sets[name]
    frames, features = int(part.frames[row]), part.features[row : row + 1].astype(np.float32)
    said = {
        f"{which}: {reader.read(name)[row]}": np.asarray(probabilities(reader.model, reader.params, features))[0]
        for which, reader in readers.items()
    }
    said = {heading: found[: -(-frames // STRIDE)] for heading, found in said.items()}
    title = f'"{part.texts[row]}", of the set {name}'
    draw_alignments(
        folder / "plots" / "alignment.png", features[0, :frames], said, corpus.alphabet, frames * HOP, title
    )
    return Image("plots/alignment.png", "What each says over time, and what it reads")
