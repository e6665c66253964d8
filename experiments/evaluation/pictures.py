"""Plots of losses and trainings: surfaces with paths, scatter plots, and panels of lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.records import plots

Points = tuple[Any, Any]
"""Horizontal and vertical coordinates, [N] each."""
LEVELS = 24
"""Number of contours of a surface."""


class Surface(NamedTuple):
    """Heights [len(y), len(x)] over two quantities, and paths [N, 2] on it by name."""

    x: Any
    y: Any
    heights: Any
    paths: Mapping[str, Any] = {}


def surfaces(path: Path, panels: Mapping[str, Surface], *, xlabel: str, ylabel: str, title: str = "") -> Path:
    """Draws contours of surfaces (bright is low), paths from a square to a circle, and a cross at each minimum.

    Args:
        path: The PNG file.
        panels: Surfaces by heading; contours are at evenly spaced quantiles of each surface.
        xlabel: Label of the horizontal axes.
        ylabel: Label of the vertical axes.
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
    """Draws a point for each run, in the colour and shape of its group.

    Args:
        path: The PNG file.
        groups: Points by name.
        xlabel: Label of the horizontal axis.
        ylabel: Label of the vertical axis.
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
    """Draws lines in panels that share the vertical axis; each line has its own horizontal coordinates.

    Args:
        path: The PNG file.
        panels: Lines by name, by heading of the panel.
        xlabel: Label of the horizontal axes.
        ylabel: Label of the vertical axes.
        log: The logarithmic axes: "", "x", "y" or "xy".
        references: For each panel, heights of dashed grey lines by name.
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
