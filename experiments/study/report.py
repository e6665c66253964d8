"""Report of a study: answers, then plots, in `report.md`; `summary.json`; and a final table."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.study.cli import print_results
from experiments.study.compare import CURVE, Answer, Question, Row, answer, label_of
from experiments.study.grid import RESULT, RUN
from train.files import write_atomic
from train.records import plots
from train.records.metrics_log import MetricsWriter, curve, read_metrics
from train.records.report import Image, Section, Table, write_report
from train.records.workdir import write_summary

COLUMNS = ["metric", "of", "mean ± sd (n)", "against", "mean ± sd", "difference (95 % interval)", "verdict"]


@dataclasses.dataclass(frozen=True)
class Parts:
    """Additions of a study to its report."""

    figures: Sequence[Any] = ()
    notes: Sequence[Any] = ()
    curves: Mapping[str, str] = dataclasses.field(default_factory=dict)
    title: str = ""


def write(
    workdir: Path, rows: Sequence[Row], questions: Sequence[Question], parts: Parts, *, command: str, doc: str
) -> dict[str, Any]:
    """Writes report and summary, prints the final table, and returns the summary; see `Run.report`."""
    heading = parts.title or doc.strip().partition("\n")[0].rstrip(".")
    answers = [answer(rows, question) for question in questions]
    records, folders = _records(workdir, rows)
    sections = [_question(workdir, rows, found, number) for number, found in enumerate(answers, 1)]
    notes, figures = (_called(blocks) for blocks in (parts.notes, parts.figures))
    sections += [Section("Notes", notes)] if notes else []
    sections += [Section("Pictures", figures)] if figures else []
    sections += _curves(workdir, folders, parts.curves)
    times = {name: round(sum(r[name] for r in records), 1) for name in ("processor_seconds", "wall_seconds")}
    commits = sorted({str(r["commit"]) for r in records})
    cost = f"{len(records)} runs, {times['processor_seconds'] / 60:.1f} min of processor time. Command: `{command}`."
    mixed = f" The runs are from {len(commits)} commits: {', '.join(commits)}." if len(commits) > 1 else ""
    sections.append(Section("How it was made", [cost + mixed]))
    write_report(workdir, heading, sections)
    summary = {
        "title": heading,
        "config": json.loads((workdir / "config.json").read_text(encoding="utf-8")),
        "questions": [_summary(found) for found in answers],
        "runs": [{name: v for name, v in row.items() if not name.endswith(" examples")} for row in rows],
        "command": command,
        "environment": json.loads((workdir / "environment.json").read_text(encoding="utf-8")),
        "commits": commits,
        **times,
    }
    write_summary(workdir, summary)
    lines = [line for found in answers for line in lines_of(found)]
    claims = [f"{found.verdict}: {found.question.claim or found.question.metric}" for found in answers]
    closing = ["", table(heading, COLUMNS, lines) if lines else heading, *claims, ""]
    print_results("\n".join([*closing, f"report: {os.path.relpath(workdir / 'report.md')}"]))
    return summary


def lines_of(found: Answer) -> list[list[str]]:
    """Returns a line of the final table for each comparison."""
    return [line_of(found.question, comparison) for comparison in found.comparisons]


def line_of(question: Question, c: Any) -> list[str]:
    """Returns the cells of `COLUMNS` for one comparison."""
    place = "" if c.at is None else f", {question.by} {' - '.join(map(str, c.at)) if isinstance(c.at, tuple) else c.at}"
    base = "" if math.isnan(c.baseline_deviation) else f"{c.baseline_mean:.3f} ± {c.baseline_deviation:.3f}"
    base = base or f"{c.baseline_mean:.3f}"
    ours = f"{c.mean:.3f}" + ("" if math.isnan(c.deviation) else f" ± {c.deviation:.3f}") + f" ({c.runs})"
    interval = f" ({c.low:+.3f} to {c.high:+.3f})" if math.isfinite(c.low) else ""
    verdict = f"same within {question.margin:g}" if c.verdict == "same" else c.verdict
    return [question.metric + place, c.treatment, ours, c.baseline, base, f"{c.difference:+.3f}{interval}", verdict]


def _question(workdir: Path, rows: Sequence[Row], found: Answer, number: int) -> Section:
    question = found.question
    within = f" within {question.margin:g}" if question.margin else ""
    expected = f"Expected: {question.expected}{within}. The claim **{found.verdict}**." + (
        f" Not run: {', '.join(found.missing)}." if found.missing else ""
    )
    methods = "; ".join(dict.fromkeys(c.method for c in found.comparisons))
    how = f"Intervals: {methods}; verdicts after Holm's correction for {len(found.comparisons)} comparisons."
    blocks: list[Any] = [expected, Table(COLUMNS, lines_of(found)), how]
    if found.comparisons:
        blocks.append(_plot(workdir / "plots" / f"question_{number}.png", rows, question))
    return Section(question.claim or question.metric, blocks)


def _plot(path: Path, rows: Sequence[Row], question: Question) -> Image:
    """Plots means and spread of all treatments and baselines of a question, over `by` if there is one."""
    named = [s for s in (*question.treatments, *question.baselines) if isinstance(s, Mapping)]
    thresholds = [float(s) for s in question.baselines if not isinstance(s, Mapping)]
    metric, by = question.metric, question.by
    of = {label_of(s): [row for row in rows if all(row.get(n) == v for n, v in s.items())] for s in named}
    of = {label: chosen for label, chosen in of.items() if chosen}
    image = Image(path.relative_to(path.parents[1]), f"{metric}: mean and standard deviation over runs")
    if by is None:
        values = {label: [row[metric] for row in chosen] for label, chosen in of.items()}
        reference = (f"{thresholds[0]:.4g}", thresholds[0]) if thresholds else None
        plots.bars(path, values, ylabel=metric, reference=reference)
        return image
    places = list(dict.fromkeys(row[by] for chosen in of.values() for row in chosen if by in row and metric in row))
    cells = {
        label: {at: [row[metric] for row in chosen if row.get(by, at) == at] for at in places}
        for label, chosen in of.items()
    }
    if not all(isinstance(at, int | float) for at in places):
        asked = {one for at in question.at or places for one in (at if isinstance(at, tuple) else (at,))}
        grouped = {str(at): {n: of_at[at] for n, of_at in cells.items() if of_at[at]} for at in places if at in asked}
        plots.bars(path, grouped, ylabel=metric)
        return image
    x = sorted(at for at in places if all(of_at[at] for of_at in cells.values()))
    least = {label: min(len(of_at[at]) for at in x) for label, of_at in cells.items()} if x else {}
    series: dict[str, Any] = {n: np.asarray([cells[n][at][: least[n]] for at in x]) for n in least}
    series |= {f"{value:.4g}": np.full((len(x), 1), value) for value in thresholds}
    log_x = by != CURVE and len(x) > 1 and x[0] > 0 and x[-1] >= 8 * x[0]
    plots.lines_with_spread(path, x, series, xlabel=by, ylabel=metric, log_x=log_x)
    return image


def _curves(workdir: Path, folders: Mapping[str, Sequence[Path]], names: Mapping[str, str]) -> list[Section]:
    """Plots the learning curves of each kind of run, averaged over its runs."""
    drawn = {}
    for kind, group in folders.items():
        for split in ("train", "validation"):
            if found := mean_curves(group, split, names):
                drawn[f"{kind}, {split}" if len(folders) > 1 else split] = found
    if not drawn:
        return []
    plots.learning_curves(workdir / "plots" / "learning_curves.png", drawn)
    return [Section("Training", [Image("plots/learning_curves.png", "Learning curves, mean over runs")])]


def mean_curves(
    folders: Sequence[Path], split: str, labels: Mapping[str, str]
) -> dict[str, tuple[list[int], list[float]]]:
    """Returns learning curves for `plots.learning_curves`, averaged over the runs with a finite value at each step.

    Args:
        folders: The folders of the runs; all runs logged at the same steps.
        split: "train", "validation", ...
        labels: Labels of the curves, by metric.

    Returns:
        `{label: (steps, values)}` of the metrics that the runs have.
    """
    records = [read_metrics(folder) for folder in folders]
    means = {}
    for metric, label in labels.items():
        at: dict[int, list[float]] = {}
        for step, value in (p for record in records for p in zip(*curve(record, split, metric), strict=True)):
            at.setdefault(step, []).append(value)
        if at:
            means[label] = (sorted(at), [float(np.mean(at[step])) for step in sorted(at)])
    return means


def _records(workdir: Path, rows: Sequence[Row]) -> tuple[list[dict[str, Any]], dict[str, list[Path]]]:
    """Returns the records of the results and of the runs they build on, and the folders of trained runs by kind.

    It collects the metrics of the results.
    """
    paths = [path for path in sorted((workdir / "runs").glob(f"*/{RESULT}")) if "~" not in path.parent.name]
    read = {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    shown = [path for path in paths if any(read[path]["setting"].items() <= row.items() for row in rows)]
    folders: dict[str, list[Path]] = {}
    write_atomic(workdir / "metrics.jsonl", "")
    with MetricsWriter(workdir) as writer:
        for path in shown:
            record = read[path]
            if (path.parent / "metrics.jsonl").exists():
                kind = ", ".join(str(v) for n, v in record["setting"].items() if n not in ("seed", "fold", "repeat"))
                folders.setdefault(kind or "model", []).append(path.parent)
                for line in read_metrics(path.parent):
                    writer.write(line["step"], f"{path.parent.name}/{line['split']}", line["values"])
    counted, count = {*shown}, 0
    while len(counted) > count:  # what a result builds on, such as the runs that tuned it, builds on others
        count = len(counted)
        needed = {key for path in counted for key in json.loads(path.with_name(RUN).read_text(encoding="utf-8"))["on"]}
        counted |= {path for path in paths if read[path]["key"] in needed}
    return [read[path] for path in paths if path in counted], folders


def _called(blocks: Sequence[Any]) -> list[Any]:
    made = [block() if isinstance(block, Callable) else block for block in blocks]  # type: ignore[arg-type]
    return [part for block in made for part in (block if isinstance(block, list) else [block])]


def _summary(found: Answer) -> dict[str, Any]:
    question = dataclasses.asdict(found.question)
    return question | {
        "verdict": found.verdict,
        "missing": list(found.missing),
        "comparisons": [dataclasses.asdict(comparison) for comparison in found.comparisons],
    }


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns a table with aligned columns; floats have three decimals.

    >>> print(table("Result", ["model", "accuracy"], [["linear", 0.5], ["deep", 0.75]]))
    Result
    model   accuracy
    linear     0.500
    deep       0.750
    """
    cells = [list(columns), *([f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    return "\n".join([title, *lines])


def mean_and_spread(values: Sequence[float]) -> str:
    """Formats mean and sample standard deviation over runs.

    >>> mean_and_spread([0.4, 0.6])
    '0.500 ± 0.141'
    """
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return f"{np.mean(values):.3f} ± {deviation:.3f}"
