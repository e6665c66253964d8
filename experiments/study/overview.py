"""Commands over several studies: report page, sweep of variants, comparison of two folders, result tables."""

from __future__ import annotations

import base64
import html
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.study import in_use, report
from experiments.study.cli import print_results
from experiments.study.compare import Question, paired
from experiments.study.grid import run_name
from experiments.study.prompt import sample_prompt
from experiments.study.report import COLUMNS, line_of, mean_curves
from train.console import say
from train.errors import RunFailed, UsageError
from train.files import differences, dump_json, make_folder, write_atomic
from train.records import plots
from train.records.report import Table, escape_markdown, markdown_table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
Studies = Mapping[str, str]
SHOWN = (0, 1, 2, 3, 5, 6)
"""Columns of a comparison in a sweep."""


def run(command: str, words: Sequence[str], studies: Studies) -> int:
    """Runs a command of `python -m experiments`; returns the exit code."""
    commands: dict[str, Callable[[list[str], Studies], None]] = {
        "report": report_all,
        "sweep": sweep,
        "compare": compare,
        "tables": write_tables,
        "sample": sample_prompt,
    }
    try:
        commands[command]([*words], studies)
    except (UsageError, RunFailed) as error:
        say(f"error: {error}")
        return 2
    return 0


def read_summary(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the summary of a finished study.

    Raises:
        UsageError: The folder has no summary.
    """
    path = Path(folder)
    path = path / "summary.json" if path.is_dir() else path
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} is not the folder of a finished study ({error})") from error


def lines_of(summary: Mapping[str, Any]) -> list[tuple[str, list[str], str]]:
    """Returns claim, table line, and verdict on the claim, for each comparison of a summary."""
    found = []
    for entry in summary["questions"]:
        question = Question(entry["metric"], {}, (0.0,), by=entry["by"], margin=entry["margin"])
        for c in entry["comparisons"]:
            at = tuple(c["at"]) if isinstance(c["at"], list) else c["at"]
            found.append(
                (entry["claim"] or entry["metric"], line_of(question, _Figures(c | {"at": at})), entry["verdict"])
            )
    return found


class _Figures:
    """Reads a comparison from JSON, in which null stands for non-finite numbers."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__ |= {name: float("nan") if v is None and name != "at" else v for name, v in values.items()}


def report_all(words: list[str], studies: Studies) -> None:
    """Writes `report.md` and a self-contained `report.html` of the finished studies in folders, or in runs/."""
    out = Path(_option(words, "--out") or "runs")
    folders = [Path(word) for word in words] or sorted(p.parent for p in Path("runs").rglob("summary.json"))
    if not folders:
        raise UsageError("there is no finished study in runs/; run one, or give folders")
    make_folder(out, "the folder of the page")
    text, page = ["# All studies"], ["<h1>All studies</h1>"]
    for folder in folders:
        summary = read_summary(folder)
        rows = [[claim, *line, holds] for claim, line, holds in lines_of(summary)]
        table = Table(["claim", *COLUMNS, "claim's verdict"], rows)
        cost = f"{summary['processor_seconds'] / 60:.1f} min of processor time"
        pictures = sorted((folder / "plots").glob("*.png"))
        text += [f"## {escape_markdown(summary['title'])}", f"`{summary['command']}`: {cost}.", markdown_table(table)]
        text += [f"![{p.stem}]({Path(os.path.relpath(p, out)).as_posix()})" for p in pictures]
        cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
        page += [
            f"<h2>{html.escape(summary['title'])}</h2><p><code>{html.escape(summary['command'])}</code>: {cost}.</p>"
        ]
        page += [f"<table><tr>{head}</tr>{cells}</table>"]
        for p in pictures:
            data = base64.b64encode(p.read_bytes()).decode()
            page.append(f'<img alt="{html.escape(p.stem)}" src="data:image/png;base64,{data}">')
    style = "body{font-family:sans-serif;margin:2em}img{max-width:48%}table{border-collapse:collapse}"
    style += "td,th{border:1px solid #ccc;padding:.2em .5em}"
    write_atomic(out / "report.md", "\n\n".join(text) + "\n")
    head = f"<!doctype html><meta charset=utf-8><title>All studies</title><style>{style}</style>"
    write_atomic(out / "report.html", head + "\n".join(page) + "\n")
    print_results(f"{len(folders)} studies: {out / 'report.md'} and {out / 'report.html'}")


def sweep(words: list[str], studies: Studies) -> None:
    """Runs a study for each combination of the comma-separated values; finished variants are skipped."""
    if not words or words[0] not in studies:
        raise UsageError(f"sweep needs the name of a study, one of {', '.join(studies)}, and options --a.b=1,2,3")
    name, given = words[0], words[1:]
    out = Path(_option(given, "--out") or f"runs/sweep-{name}")
    pairs = [word.removeprefix("--").partition("=") for word in given]
    bad = [word for word, (_, equals, _) in zip(given, pairs, strict=True) if not (equals or word.startswith("--"))]
    if bad:
        raise UsageError(f"sweep takes options as --a.b=1,2,3, got {' '.join(bad)}")
    axes = {option: value.split(",") for option, equals, value in pairs if equals and "," in value}
    fixed = [word for word in given if "," not in word]
    rows: list[list[str]] = []
    columns = [*axes, *(COLUMNS[i] for i in SHOWN)]
    variants = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    for number, variant in enumerate(variants, 1):
        folder = out / run_name(variant)
        options = [*fixed, *(f"--{option}={value}" for option, value in variant.items()), f"--workdir={folder}"]
        say(f"{number} of {len(variants)}: {name} {shlex.join(options)}")
        command = [sys.executable, "-m", f"experiments.{name}", *options]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode in (130, 143):
            raise SystemExit(done.returncode)
        if done.returncode:
            rows.append([*variant.values(), f"failed (code {done.returncode})", *[""] * 5])
            continue
        rows += [[*variant.values(), *(line[i] for i in SHOWN)] for _, line, _ in lines_of(read_summary(folder))]
        write_atomic(out / "sweep.md", markdown_table(Table(columns, rows)) + "\n")
    print_results(
        report.table(f"{name}, {len(variants)} variants in {out}", [*axes, *(COLUMNS[i] for i in SHOWN)], rows)
    )


def compare(words: list[str], studies: Studies) -> None:
    """Prints differing options and paired differences of the runs of two folders; plots both curves."""
    out = Path(_option(words, "--out") or "compare.png")
    if len(words) != 2:
        raise UsageError("compare needs two folders of finished studies: compare A B")
    first, second = (read_summary(word) for word in words)
    changed = differences(first["config"], second["config"])
    print_results(
        report.table("Options that differ", ["option", *words], [[n, str(a), str(b)] for n, (a, b) in changed.items()])
    )
    rows = []
    for metric, differing in _paired_rows(first["runs"], second["runs"]).items():
        e = paired(differing)
        low, high = e.interval()
        interval = f"{low:+.4g} to {high:+.4g}" if len(differing) > 1 else "one pair"
        rows.append([metric, f"{e.difference:+.4g}", interval, str(len(differing))])
    print()
    print_results(
        report.table("B - A, over runs with the same setting", ["metric", "difference", "95 % interval", "pairs"], rows)
    )
    curves = {}
    for word in words:
        folders = [p.parent for p in sorted(Path(word).glob("runs/*/metrics.jsonl")) if "~" not in p.parent.name]
        names = {name for row in (first, second) for name in ("loss", "accuracy")} | {
            q["metric"] for q in first["questions"]
        }
        if folders and (found := mean_curves(folders, "train", {name: name for name in sorted(names)})):
            curves[word] = found
    if curves:
        print_results(f"\ncurves: {plots.learning_curves(out, curves)}")


def _paired_rows(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Returns the differences of each metric over rows that agree in all other values."""

    def known_by(row: Mapping[str, Any]) -> str:
        return json.dumps({n: v for n, v in row.items() if not isinstance(v, float | list)}, sort_keys=True)

    before, found = {known_by(row): row for row in first}, dict[str, list[float]]()
    for row in second:
        other = before.get(known_by(row), {})
        for name, value in row.items():
            if isinstance(value, float) and isinstance(other.get(name), float):
                found.setdefault(name, []).append(value - other[name])
    return found


def write_tables(words: list[str], studies: Studies) -> None:
    """Copies the summaries of the given folders, then writes the tables from the summaries in docs/results."""
    make_folder(RESULTS)
    for word in words:
        summary = read_summary(word)
        runs = [{n: v for n, v in row.items() if not isinstance(v, list)} for row in summary["runs"]]  # no curves
        write_atomic(RESULTS / f"{summary['config']['study']}.json", dump_json(summary | {"runs": runs}))
    for path, text in tables(studies).items():
        write_atomic(path, text)
        print_results(str(path.relative_to(ROOT)))


def tables(studies: Studies) -> dict[Path, str]:
    """Returns README.md, with the first claim of each study, and docs/results.md, with all, from the summaries."""
    summaries = {
        name: read_summary(RESULTS / f"{name}.json") for name in studies if (RESULTS / f"{name}.json").exists()
    }
    claims: list[list[str]] = []
    headlines: list[list[str]] = []
    pages = ["# Results", "Written by `python -m experiments tables` from the summaries in `docs/results`."]
    details: list[str] = []
    for name, summary in summaries.items():
        date, minutes = summary["environment"]["date"][:10], summary["processor_seconds"] / 60
        answers = [[e["claim"] or e["metric"], e["verdict"], least_favourable(e), name] for e in summary["questions"]]
        claims += answers
        headlines += answers[:1]
        versions = ", ".join(f"{n} {summary['environment']['packages'][n]}" for n in ("jax", "flax"))
        details += [f"## {escape_markdown(summary['title'])}"]
        details += [f"`{summary['command']}`, {minutes:.1f} min of processor time, {date}, {versions}."]
        details += [markdown_table(Table(["claim", *COLUMNS], [[c, *line] for c, line, _ in lines_of(summary)]))]
    head = ["claim", "verdict", "least favourable comparison", "study"]
    table, first = (markdown_table(Table(head, rows)) for rows in (claims, headlines))
    readme = ROOT / "README.md"
    text = re.sub(
        r"(<!-- results -->\n).*?(<!-- end of results -->)",
        lambda match: f"{match[1]}{first}\n{match[2]}",
        readme.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    used = in_use.table_of(summaries)
    details += [
        "## Losses in use",
        f"{len({row[0] for row in used.rows})} losses trained networks in these studies. Figures are means over the "
        "networks ± standard deviation.",
        markdown_table(used),
    ]
    return {readme: text, ROOT / "docs" / "results.md": "\n\n".join([*pages, table, *details]) + "\n"}


def least_favourable(entry: Mapping[str, Any]) -> str:
    """Returns the comparison with the least support for the claim, with both means and the interval."""

    def support(number: int) -> float:
        difference = entry["comparisons"][number]["difference"]
        if difference is None:
            return float("inf")
        return -abs(difference) if entry["expected"] == "same" else difference * (-1) ** (entry["better"] == "lower")

    count = len(entry["comparisons"])
    if not count:
        return ""
    metric, treatment, figure, baseline, other, difference, _ = [
        line for _, line, _ in lines_of({"questions": [entry]})
    ][min(range(count), key=support)]
    of = f" (of {count})" if count > 1 else ""
    shown = baseline if baseline.replace(".", "").isdigit() else f"{baseline} {other}"
    return f"{metric}: {treatment} {figure}, against {shown}: {difference}{of}"


def _option(words: list[str], name: str) -> str | None:
    """Removes `--name value` or `--name=value` from the arguments."""
    for i, word in enumerate(words):
        if word == name and i + 1 < len(words):
            del words[i]
            return words.pop(i)
        if word.startswith(f"{name}="):
            return words.pop(i).partition("=")[2]
    return None
