"""The plots of a report: PNG files, byte for byte equal for equal numbers.

They use Matplotlib's figure objects without `pyplot`: no global state, no windows, no leaked figures. The colours of
Okabe and Ito (2008) suit colour-blind readers; lines also differ in dash.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from train.errors import UsageError
from train.files import check_place, make_folder, write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE: dict[Any, Any] = {
    "figure.dpi": 130,
    "savefig.dpi": 130,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "text.parse_math": False,  # dollar signs in labels are literal
}

Points = tuple[Sequence[float], Sequence[float]]


def learning_curves(
    path: str | os.PathLike[str],
    runs: Mapping[str, Mapping[str, Points]],
    *,
    labels: Mapping[str, str] | None = None,
    xlabel: str = "step",
    title: str = "",
    log_y: Sequence[str] = (),
) -> Path:
    """Draws metrics over training steps: one panel per metric, one line per run.

    Args:
        path: The PNG file.
        runs: `{run: {metric: (steps, values)}}`. A run may lack a metric; values that are not finite leave a gap.
        labels: Labels of the vertical axes by metric, with units, such as `{"loss": "loss (nats)"}`.
        xlabel: Label of the horizontal axis.
        title: Heading of the figure.
        log_y: Metrics drawn on a logarithmic axis.
    """
    metrics = list(dict.fromkeys(metric for curves in runs.values() for metric in curves))
    _require(metrics, "learning curves")
    columns = min(len(metrics), 3)
    rows = -(-len(metrics) // columns)
    with drawing(path, (4.2 * columns, 3.1 * rows + 0.5), title) as figure:
        for number, metric in enumerate(metrics):
            axes = figure.add_subplot(rows, columns, number + 1)
            for index, (run, curves) in enumerate(runs.items()):
                if metric in curves:
                    steps, values = (np.asarray(part, dtype=float) for part in curves[metric])
                    marker = _MARKERS[index % 7] if len(steps) <= 12 else ""
                    axes.plot(steps, values, label=run, color=colour(index), ls=dash(index), marker=marker, ms=4)
            if metric in log_y:
                log_axis(axes)
            axes.set_xlabel(xlabel)
            axes.set_ylabel((labels or {}).get(metric, metric))
            axes.margins(x=0.02)
        legend_below(figure, len(runs) > 1)
    return Path(path)


def bars(
    path: str | os.PathLike[str],
    values: Mapping[str, Sequence[float] | Mapping[str, Sequence[float]]],
    *,
    ylabel: str,
    title: str = "",
    limits: tuple[float, float] | None = None,
    reference: tuple[str, float] | None = None,
) -> Path:
    """Draws means over runs as bars with standard deviations, a dot for each run and the mean as text.

    Args:
        path: The PNG file.
        values: `{name: [one value a run]}`, or in groups `{group: {name: [one value a run]}}`. Bars start at 0.
        ylabel: Label of the vertical axis, with unit.
        title: Heading of the figure.
        limits: Range of the vertical axis, such as (0, 1) for an accuracy.
        reference: Name and height of a dashed line, such as `("chance", 0.1)`.
    """
    _require(values, "bars")
    grouped = all(isinstance(entry, Mapping) for entry in values.values())
    groups: dict[str, dict[str, Any]] = (
        {name: dict(entry) for name, entry in values.items()}  # type: ignore[arg-type]
        if grouped
        else {name: {name: entry} for name, entry in values.items()}
    )
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    slots = len(names) if grouped else 1
    width = 0.8 / slots
    with drawing(path, (max(4.5, 1.2 + 0.55 * len(groups) * max(slots, 2)), 3.8), title) as figure:
        axes = figure.add_subplot()
        for index, name in enumerate(names):
            for position, group in enumerate(groups.values()):
                if name not in group:
                    continue
                runs = np.atleast_1d(np.asarray(group[name], dtype=float))
                offset = (index - (slots - 1) / 2) * width if grouped else 0.0
                label = name if grouped and position == _first(groups, name) else None
                _bar(axes, position + offset, runs, width * 0.92, index if grouped else 0, label)
        if reference is not None:
            axes.axhline(reference[1], color="#444444", ls="--", lw=1.2, label=f"{reference[0]} ({reference[1]:.3g})")
        axes.set_xticks(range(len(groups)), [textwrap.fill(name, 16 if grouped else 14) for name in groups])
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(ylabel)
        if limits is not None:
            axes.set_ylim(limits)
        legend_below(figure, grouped or reference is not None)
    return Path(path)


def lines_with_spread(
    path: str | os.PathLike[str],
    x: Sequence[float],
    series: Mapping[str, Any],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    log_x: bool = False,
    limits: tuple[float, float] | None = None,
) -> Path:
    """Draws means over runs against a quantity, with a band of one standard deviation on each side.

    Args:
        path: The PNG file.
        x: The quantity, `[n_x]`.
        series: `{name: [n_x, n_runs]}`.
        xlabel: Label of the horizontal axis, with unit.
        ylabel: Label of the vertical axis, with unit.
        title: Heading of the figure.
        log_x: Whether the horizontal axis is logarithmic (base 2); its ticks are then the values of `x`.
        limits: Range of the vertical axis.
    """
    _require(series, "lines")
    positions = np.asarray(x, dtype=float)
    with drawing(path, (5.6, 4.0), title) as figure:
        axes = figure.add_subplot()
        for index, (name, runs) in enumerate(series.items()):
            array = np.asarray(runs, dtype=float)
            if array.ndim != 2 or array.shape[0] != len(positions):
                raise UsageError(
                    f"expected {name!r} as [{len(positions)}, runs], one row for each x, got shape {array.shape}"
                )
            mean, spread = array.mean(axis=1), _spread(array)
            axes.fill_between(positions, mean - spread, mean + spread, color=colour(index), alpha=0.18, lw=0)
            marker = _MARKERS[index % 7] if len(positions) <= 20 else ""
            axes.plot(positions, mean, label=name, color=colour(index), ls=dash(index), marker=marker, ms=5)
        if log_x:
            axes.set_xscale("log", base=2)
            axes.set_xticks(positions, [f"{value:g}" for value in positions])
            axes.minorticks_off()
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if limits is not None:
            axes.set_ylim(limits)
        legend_below(figure, len(series) > 1)
    return Path(path)


def confusion_matrix(path: str | os.PathLike[str], counts: Any, classes: Sequence[str], *, title: str = "") -> Path:
    """Draws counts of true and predicted classes, coloured by the fraction of the true class.

    Args:
        path: The PNG file.
        counts: `[classes, classes]`, rows the true and columns the predicted class.
        classes: Names of the classes.
        title: Heading of the figure.
    """
    matrix = np.asarray(counts)
    if matrix.shape != (len(classes), len(classes)) or not len(classes):
        raise UsageError(f"expected counts of shape {(len(classes),) * 2}, one row a class, got {matrix.shape}")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = 2.4 + 0.42 * len(classes)
    with drawing(path, (size + 1.0, size), title) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.grid(visible=False)
        axes.set_xticks(range(len(classes)), list(classes), rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), list(classes))
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        if len(classes) <= 20:
            for (row, column), count in np.ndenumerate(matrix):
                if count:
                    colour = "white" if shares[row, column] > 0.55 else "black"
                    axes.text(column, row, f"{count:g}", ha="center", va="center", color=colour, fontsize=8)
        figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046, pad=0.04)
    return Path(path)


def image_rows(path: str | os.PathLike[str], images: Any, *, height: int = 56) -> Path:
    """Draws grey images in separated rows, without axes or smoothing.

    Args:
        path: The PNG file.
        images: `[rows, columns, H, W]`, 0 black to 1 white.
        height: Minimum height of an image in pixels; smaller ones are enlarged by an integer factor.
    """
    from matplotlib.image import imsave

    pixels = np.clip(np.asarray(images, dtype=float), 0, 1)
    _require(pixels.size and pixels.ndim == 4, "rows of images")
    bordered = np.pad(pixels, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.5)
    rows, columns, tall, wide = bordered.shape
    picture = bordered.transpose(0, 2, 1, 3).reshape(rows * tall, columns * wide)
    zoom = max(1, height // pixels.shape[2])
    buffer = io.BytesIO()
    imsave(buffer, np.kron(picture, np.ones((zoom, zoom))), cmap="gray", vmin=0, vmax=1, format="png")
    make_folder(Path(path).parent)
    write_atomic(path, buffer.getvalue())
    return Path(path)


@contextmanager
def drawing(path: str | os.PathLike[str], size: tuple[float, float], title: str) -> Iterator[Figure]:
    """A figure that is saved at the end, in a style independent of the user's configuration."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=size, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        yield figure
        if title:
            figure.suptitle(title)
        buffer = io.BytesIO()
        canvas.print_png(buffer, metadata={"Software": None})  # omits Matplotlib's version
    make_folder(check_place(path, "a file").parent, "the folder of a plot")
    write_atomic(path, buffer.getvalue())


def legend_below(figure: Figure, wanted: bool) -> None:
    """One legend for all panels, outside of them so that it covers no data."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if wanted and entries:
        columns = max(1, min(len(entries), int(figure.get_figwidth() * 13 / (max(map(len, entries)) + 6))))
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def log_axis(axes: Axes, which: Literal["x", "y"] = "y") -> None:
    """A logarithmic axis with plain numbers (the usual ones need `text.parse_math`)."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis, (low, high) = (axes.xaxis, axes.get_xlim()) if which == "x" else (axes.yaxis, axes.get_ylim())
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axis.set_major_formatter(plain)
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_minor_formatter(plain if high < 1e3 * low and which == "y" else NullFormatter())


def _bar(axes: Axes, position: float, runs: np.ndarray, width: float, index: int, label: str | None) -> None:
    mean, spread = float(runs.mean()), float(_spread(runs[None])[0])
    hatch = ("", "///", "...")[index // len(COLOURS) % 3]  # the colours begin again
    axes.bar(position, mean, width, color=colour(index), alpha=0.75, label=label, hatch=hatch, edgecolor="white")
    if len(runs) > 1:
        axes.errorbar(position, mean, spread, color="black", capsize=3, lw=1.2)
        places = position + width * np.linspace(-0.25, 0.25, len(runs))
        axes.scatter(places, runs, s=10, color="white", edgecolors="black", linewidths=0.6, zorder=3)
    top = max(mean + spread, float(runs.max()), 0.0)
    axes.annotate(f"{mean:.3g}", (position, top), (0, 4), textcoords="offset points", ha="center", fontsize=8)


def _spread(array: np.ndarray) -> np.ndarray:
    """Sample standard deviation over the last axis; 0 for a single run."""
    return array.std(axis=-1, ddof=1) if array.shape[-1] > 1 else np.zeros(array.shape[:-1])


def _first(groups: Mapping[str, Mapping[str, Any]], name: str) -> int:
    return next(position for position, group in enumerate(groups.values()) if name in group)


def colour(index: int) -> str:
    """The colour of the line with this number."""
    return COLOURS[index % len(COLOURS)]


def dash(index: int) -> str:
    """The dash of the line with this number."""
    return _DASHES[index % len(_DASHES)]


def _require(content: Any, what: str) -> None:
    if not content:
        raise UsageError(f"expected something to draw as {what}, got nothing")
