"""Plots hold the numbers they were given, look the same each time, and touch no global state."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from train.errors import UsageError
from train.records import plots

RUNS = {
    "a": {"loss": ([0, 10, 20], [3.0, 2.0, np.nan]), "accuracy": ([0, 20], [0.1, 0.6])},
    "b, from scratch": {"loss": ([0, 10, 20], [3.5, 2.5, 2.2])},
}
GROUPS = {"8 labels": {"a": [0.1, 0.3], "b": [0.5, 0.5, 0.8]}, "16 labels": {"b": [0.9]}}


@pytest.fixture
def figures(monkeypatch):
    """The figures as they were when they were printed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    seen = []
    original = FigureCanvasAgg.print_png

    def record(canvas, *args, **kwargs):
        seen.append(canvas.figure)
        return original(canvas, *args, **kwargs)

    monkeypatch.setattr(FigureCanvasAgg, "print_png", record)
    return seen


def draw_all(folder):
    yield plots.learning_curves(folder / "curves.png", RUNS, title="t", log_y=["loss"])
    yield plots.bars(folder / "bars.png", {"a": [0.1, 0.2], "b": [0.5]}, ylabel="F1", reference=("chance", 0.1))
    yield plots.bars(folder / "groups.png", GROUPS, ylabel="F1", limits=(0, 1))
    x, y = [1, 2, 4], np.arange(6.0).reshape(3, 2)
    yield plots.lines_with_spread(folder / "lines.png", x, {"a": y, "b": y + 1}, xlabel="x", ylabel="y", log_x=True)
    yield plots.confusion_matrix(folder / "confusion.png", [[3, 1], [0, 0]], ["law", "$5 and $6"])


def chunks(path):
    """Names of a PNG's chunks."""
    data, place, names = path.read_bytes(), 8, []
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        names.append(data[place + 4 : place + 8].decode())
        place += size + 12
    return names


def test_the_same_bytes_each_time_and_nothing_but_the_picture(tmp_path):
    import matplotlib

    first = [path.read_bytes() for path in draw_all(tmp_path)]
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):  # a user's own settings
        second = list(draw_all(tmp_path))
        assert matplotlib.rcParams["font.size"] == 30
    assert [path.read_bytes() for path in second] == first
    for path in second:
        assert set(chunks(path)) <= {"IHDR", "pHYs", "IDAT", "IEND"}


def test_needs_no_display_and_no_pyplot(tmp_path):
    code = (
        "import sys, pathlib; from tests.train.records.test_plots import draw_all;"
        f"list(draw_all(pathlib.Path({str(tmp_path)!r}))); assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"} | {"MPLBACKEND": "tkagg"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], env=environment)


def test_learning_curves(tmp_path, figures):
    plots.learning_curves(tmp_path / "a.png", RUNS, labels={"loss": "loss (nats)"}, xlabel="epoch")
    loss, accuracy = figures[0].axes
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[0, 3], [10, 2], [20, np.nan]])
    np.testing.assert_array_equal(loss.lines[1].get_xydata(), [[0, 3.5], [10, 2.5], [20, 2.2]])
    np.testing.assert_array_equal(accuracy.lines[0].get_xydata(), [[0, 0.1], [20, 0.6]])
    assert (loss.get_xlabel(), loss.get_ylabel(), accuracy.get_ylabel()) == ("epoch", "loss (nats)", "accuracy")
    assert loss.lines[0].get_color() == accuracy.lines[0].get_color() != loss.lines[1].get_color()
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["a", "b, from scratch"]


def test_legends_cover_no_data(tmp_path, figures):
    list(draw_all(tmp_path))
    assert sum(len(figure.legends) for figure in figures) == 4
    for figure in figures:
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1


def test_bars_show_mean_and_sample_deviation(tmp_path, figures):
    plots.bars(tmp_path / "a.png", GROUPS, ylabel="F1")
    (axes,) = figures[0].axes
    # a in the first group, b in both; the deviation of (0.1, 0.3) is 0.1 sqrt(2), of (0.5, 0.5, 0.8) 0.1 sqrt(3).
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], [0.2, 0.6, 0.9])
    spans = [line.get_segments()[0][:, 1] for line in axes.collections if hasattr(line, "get_segments")]
    np.testing.assert_allclose(np.diff(spans)[:, 0], [0.2 * np.sqrt(2), 0.2 * np.sqrt(3)])
    np.testing.assert_allclose(np.mean(spans, axis=1), [0.2, 0.6])
    dots = [c.get_offsets()[:, 1] for c in axes.collections if not hasattr(c, "get_segments")]
    np.testing.assert_allclose(np.concatenate(dots), [0.1, 0.3, 0.5, 0.5, 0.8])
    assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in axes.texts] == ["0.2", "0.6", "0.9"]


def test_bars_of_one_colour_are_told_apart_by_hatches(tmp_path, figures):
    plots.bars(tmp_path / "a.png", {"all": {f"method {n}": [0.5] for n in range(9)}}, ylabel="F1")
    looks = [(bar.get_facecolor(), bar.get_hatch()) for bar in figures[0].axes[0].patches]
    assert len({colour for colour, _ in looks}) == 7
    assert len(set(looks)) == 9


def test_lines_show_mean_and_band(tmp_path, figures):
    runs = np.array([[0.0, 2.0], [1.0, 5.0]])
    plots.lines_with_spread(tmp_path / "a.png", [1, 4], {"a": runs}, xlabel="labels", ylabel="F1", limits=(-1, 6))
    (axes,) = figures[0].axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 1], [4, 3]])
    band = axes.collections[0].get_paths()[0].vertices
    for x, mean, deviation in ((1, 1, np.sqrt(2)), (4, 3, 2 * np.sqrt(2))):
        heights = band[band[:, 0] == x, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [mean - deviation, mean + deviation])
    assert axes.get_ylim() == (-1, 6)
    assert not figures[0].legends


def test_confusion_matrix(tmp_path, figures):
    plots.confusion_matrix(tmp_path / "a.png", [[3, 1], [0, 0]], ["law", "history"])
    axes = figures[0].axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])  # a class without examples is 0
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [((0, 0), "3"), ((1, 0), "1")]
    assert axes.get_ylabel() == "true class"


def test_colours_are_told_apart_by_the_colour_blind():
    """Machado et al. (2009), severity 1: neighbouring lines stay apart under each of the three deficiencies."""
    deficiencies = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    colours = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in plots.COLOURS])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    for name, matrix in deficiencies.items():
        seen = np.clip(linear @ np.transpose(matrix), 0, 1)
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(len(seen))
        assert distances.min() > 0.08, name


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: plots.learning_curves(path, {}),
        lambda path: plots.bars(path, {}, ylabel="y"),
        lambda path: plots.lines_with_spread(path, [1, 2], {}, xlabel="x", ylabel="y"),
        lambda path: plots.lines_with_spread(path, [1, 2], {"a": [[1.0]]}, xlabel="x", ylabel="y"),
        lambda path: plots.confusion_matrix(path, [[1]], ["a", "b"]),
        lambda path: plots.confusion_matrix(path, np.zeros((0, 0)), []),
    ],
)
def test_nothing_to_draw(tmp_path, draw):
    with pytest.raises(UsageError, match="expected"):
        draw(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
