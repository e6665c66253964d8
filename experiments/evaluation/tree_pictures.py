"""Plots of dependency trees: right and wrong arcs over words, and distances of states over distances in the tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.treebank import TreeData
from experiments.evaluation import trees
from experiments.evaluation.pictures import line_panels
from train.records import plots
from train.records.report import Image, Table

RIGHT, WRONG, MISSED = plots.COLOURS[0], plots.COLOURS[1], "#999999"


class Drawn(NamedTuple):
    """A sentence, its heads and the predicted heads."""

    words: Sequence[str]
    heads: Sequence[int]
    found: Sequence[int]


def draw_examples(path: Path, data: TreeData, rows: Sequence[Mapping[str, Any]]) -> list[Image]:
    """Draws the `shown` sentences of each text with the heads of the first row.

    Args:
        path: The PNG file, in the folder `plots` of a study.
        data: The sentences.
        rows: "text" and "heads examples".
    """
    drawn: dict[str, list[Drawn]] = {}
    for text, gold in data.tests.items():
        found: Any = next((row["heads examples"] for row in rows if row["text"] == text), [])
        for index, heads in zip(trees.shown(gold), found, strict=False):
            sentence = data.treebank.tests[text][index]
            drawn.setdefault(text, []).append(Drawn(sentence.words, sentence.heads, heads[: len(sentence.words)]))
    return [draw_trees(path, drawn)] if drawn else []


def draw_trees(path: Path, sentences: Mapping[str, Sequence[Drawn]]) -> Image:
    """Draws the arcs of sentences, by heading: solid where right, dashed where wrong, dotted below where missed.

    Args:
        path: The PNG file, in the folder `plots` of a study.
        sentences: By heading.
    """
    panels = [(heading, sentence) for heading, some in sentences.items() for sentence in some]
    with plots.drawing(path, (10.5, 2.5 * len(panels)), "") as figure:
        for number, (heading, sentence) in enumerate(panels):
            axes = figure.add_subplot(len(panels), 1, number + 1)
            right = sum(a == b for a, b in zip(sentence.heads, sentence.found, strict=True))
            axes.set_title(f"{heading}: {right} of {len(sentence.heads)} heads right", loc="left", fontsize=9)
            _draw_sentence(axes, sentence)
        plots.legend_below(figure, True)
    return Image(f"plots/{path.name}", "Arcs go from the head to its dependent; one from above marks the root")


def _draw_sentence(axes: Any, sentence: Drawn) -> None:
    widths = np.array([max(len(word), 2) + 2 for word in sentence.words], float)
    places = np.concatenate([[0.0], np.cumsum((widths[:-1] + widths[1:]) / 2)])
    for place, word in zip(places, sentence.words, strict=True):
        axes.text(place, 0, word, ha="center", va="center", fontsize=9)
    highest = lowest = 1
    for number, (head, found) in enumerate(zip(sentence.heads, sentence.found, strict=True), 1):
        highest = max(highest, abs(found - number) if found else 0)
        if head == found:
            _draw_arc(axes, places, number, head, 1, {"color": RIGHT, "ls": "-", "label": "right"})
        else:
            lowest = max(lowest, abs(head - number) if head else 0)
            _draw_arc(axes, places, number, found, 1, {"color": WRONG, "ls": "--", "label": "wrong"})
            _draw_arc(axes, places, number, head, -1, {"color": MISSED, "ls": ":", "label": "should be"})
    axes.set(xlim=(-widths[0] / 2, places[-1] + widths[-1] / 2), ylim=(-0.6 - lowest**0.7, 0.6 + highest**0.7))
    axes.axis("off")


def _draw_arc(axes: Any, places: np.ndarray, word: int, head: int, side: int, style: dict[str, Any]) -> None:
    """An arc above (side 1) or below (-1) the words, with the arrow at the dependent."""
    end, foot = places[word - 1], 0.35 * side
    label = style.pop("label")
    if head == 0:
        axes.plot([end, end], [foot, foot + 0.9 * side], lw=1.4, label=label, **style)
    else:
        start = places[head - 1] + 0.12 * (1 if word > head else -1) * 3
        height, t = abs(head - word) ** 0.7, np.linspace(0, np.pi, 60)
        middle, half = (start + end) / 2, (end - start) / 2
        axes.plot(middle - half * np.cos(t), foot + side * height * np.sin(t) ** 0.6, lw=1.4, label=label, **style)
    axes.plot([end], [foot], marker="v" if side > 0 else "^", color=style["color"], ms=5)


def draw_distances(path: Path, rows: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> list[Image]:
    """Draws the mean distance of states by the distance of their words in the tree.

    Args:
        path: The PNG file, in the folder `plots` of a study.
        rows: One per network and text: "method", "text", and the distances as "by_tree_distance".
        groups: Methods that share a panel, by heading.
    """
    panels: dict[str, dict[str, Any]] = {}
    for heading, methods in groups.items():
        for method in methods:
            lines = [row["by_tree_distance"] for row in rows if row["method"] == method and "by_tree_distance" in row]
            if lines:
                mean = np.mean(lines, 0)
                panels.setdefault(heading, {})[method] = (np.arange(1, len(mean) + 1), mean)
    if not panels:
        return []
    line_panels(path, panels, xlabel="arcs between two words", ylabel="distance of states / mean")
    return [Image(f"plots/{path.name}", "Means over networks and texts of the test; the last place is 8 arcs or more")]


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Means of all metrics over runs, for each method and text."""
    parts = ("attachment", "word_by_word", "tag_accuracy", "closeness", "uuas", "spearman")
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["trained_on"], row["method"], row["text"]), []).append(row)
    lines = [
        [*names, *(f"{np.mean([row[part] for row in some]):.3f}" if part in some[0] else "" for part in parts)]
        for names, some in groups.items()
    ]
    return Table(
        ["trained on", "method", "text", "attachment", "word by word", "tags", "closeness", "UUAS", "Spearman"], lines
    )
