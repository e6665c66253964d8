"""Pictures of losses and of trainings: surfaces with paths on them, points, lines over quantities of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.records import plots

Points = tuple[Any, Any]
"""Horizontal and vertical places, [N] each."""
LEVELS = 24
"""Contours of a surface."""


class Surface(NamedTuple):
    """Heights [len(y), len(x)] over two quantities, and paths [N, 2] on it by name."""

    x: Any
    y: Any
    heights: Any
    paths: Mapping[str, Any] = {}


def surfaces(path: Path, panels: Mapping[str, Surface], *, xlabel: str, ylabel: str, title: str = "") -> Path:
    """Contours of each surface, bright is low, with paths from a square to a circle and a cross at the lowest place.

    Args:
        path: The PNG file.
        panels: Surfaces by heading, each with contours at levels of its own, evenly over the ranks of its heights.
        xlabel: What the horizontal axes say.
        ylabel: What the vertical axes say.
        title: Heading of the figure.
    """
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    with plots.drawing(path, (3.5 * columns, 3.5 * rows + 0.6), title) as figure:
        for number, (heading, surface) in enumerate(panels.items()):
            axes = figure.add_subplot(rows, columns, number + 1)
            heights = np.asarray(surface.heights, float)
            levels = np.unique(np.quantile(heights, np.linspace(0, 1, LEVELS)))
            axes.contourf(surface.x, surface.y, heights, levels, cmap="Greys")
            low_y, low_x = np.unravel_index(heights.argmin(), heights.shape)
            axes.plot(surface.x[low_x], surface.y[low_y], "x", color="black", ms=9, mew=2)
            for index, (name, places) in enumerate(surface.paths.items()):
                across, up = np.asarray(places, float).T
                axes.plot(across, up, label=name, color=plots.colour(index), ls=plots.dash(index), lw=2)
                axes.plot(across[-1], up[-1], "o", color=plots.colour(index), ms=6, mec="black")
                axes.plot(across[0], up[0], "s", color="black", ms=6, zorder=5)
            axes.set(title=heading, xlabel=xlabel, ylabel=ylabel)
            axes.set(xlim=(surface.x[0], surface.x[-1]), ylim=(surface.y[0], surface.y[-1]))
            axes.grid(visible=False)
        plots.legend_below(figure, True)
    return path


def scatter(path: Path, groups: Mapping[str, Points], *, xlabel: str, ylabel: str, log_x: bool = False) -> Path:
    """A point for each run, in the colour and shape of its group.

    Args:
        path: The PNG file.
        groups: Points by name.
        xlabel: What the horizontal axis says.
        ylabel: What the vertical axis says.
        log_x: Whether the horizontal axis is logarithmic.
    """
    with plots.drawing(path, (5.6, 4.2), "") as figure:
        axes = figure.add_subplot()
        for index, (name, (x, y)) in enumerate(groups.items()):
            axes.scatter(x, y, s=26, label=name, color=plots.colour(index), marker="os^DvPX"[index % 7], alpha=0.8)
        if log_x:
            plots.log_axis(axes, "x")
        axes.set(xlabel=xlabel, ylabel=ylabel)
        plots.legend_below(figure, True)
    return path


def line_panels(
    path: Path,
    panels: Mapping[str, Mapping[str, Points]],
    *,
    xlabel: str,
    ylabel: str,
    log: str = "",
    references: Sequence[Mapping[str, float]] = (),
    limits: tuple[float, float] | None = None,
) -> Path:
    """Lines in panels that share their vertical range; each line has horizontal places of its own.

    Args:
        path: The PNG file.
        panels: Lines by name, by heading of the panel.
        xlabel: What the horizontal axes say.
        ylabel: What the vertical axes say.
        log: The axes that are logarithmic: "", "x", "y" or "xy".
        references: For each panel heights of dashed grey lines by name.
        limits: The vertical range.
    """
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with plots.drawing(path, (max(6.4, 4.2 * columns), 3.3 * rows + 0.9), "") as figure:
        names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
        for number, (heading, lines) in enumerate(panels.items()):
            axes = figure.add_subplot(rows, columns, number + 1)
            for name, (x, y) in lines.items():
                index = names.index(name) if len(names) <= 7 else list(lines).index(name)
                marker = "os^DvPX"[index % 7] if len(x) <= 20 else ""
                style: dict[str, Any] = {
                    "color": plots.colour(index),
                    "ls": plots.dash(index),
                    "marker": marker,
                    "ms": 4,
                }
                axes.plot(x, y, label=name, **style)
            for name, height in references[number].items() if references else ():
                axes.axhline(height, color="#777777", ls=":", lw=1.4, label=name)
            axes.set(title=heading, xlabel=xlabel, ylabel=ylabel)
            if limits is not None:
                axes.set_ylim(limits)
            for which in log:
                plots.log_axis(axes, which)  # type: ignore[arg-type]
            if len(names) > 7:
                axes.legend(fontsize=7)
        plots.legend_below(figure, len(names) <= 7)
    return path
