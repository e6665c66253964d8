"""The pages that speak of the studies: functions exist, tables are those of the summaries, summaries those of today."""

import dataclasses
import importlib
import json
import re
from pathlib import Path

import pytest

from experiments.__main__ import main, studies
from experiments.study import overview
from experiments.study.config import nested, settings
from experiments.study.overview import RESULTS, tables

ROOT = Path(__file__).parents[2]
HOPS = re.findall(r"^\| \d+ \| `([\w.]+)` \|", (ROOT / "docs" / "studies.md").read_text(), flags=re.MULTILINE)


def test_a_metric_is_about_twenty_hops_from_its_command():
    assert 15 <= len(HOPS) <= 25


@pytest.mark.parametrize("name", HOPS)
def test_every_function_of_the_hops_exists(name):
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            thing = getattr(thing, part)
        assert callable(thing)
        return
    raise AssertionError(f"no module of {name}")


def test_tables_are_those_of_the_committed_summaries():
    for path, text in tables(studies()).items():
        assert path.read_text() == text, f"{path.name} is not what `python -m experiments tables` writes"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_committed_summary_is_of_the_study_as_it_is(path):
    study = importlib.import_module(f"experiments.{path.stem}")
    found = json.loads(path.read_text())["config"]
    more = {"longer": True} if found.get("longer") else {}  # what --longer adds, it adds to the default run
    today = {"study": path.stem, **nested(settings(study.Config(**more)))}
    assert found == json.loads(json.dumps(today)), "its config is not today's default: run the study again"


SUMMARY = {
    "title": "A study",
    "config": {"study": "toy_classifier", "seed": 0},
    "questions": [
        {
            "metric": "accuracy", "by": None, "margin": 0.0, "claim": "Deep | is better", "verdict": "holds",
            "better": "higher", "expected": "better",
            "comparisons": [
                {
                    "treatment": "deep", "baseline": "linear", "at": None, "mean": 0.9, "deviation": 0.01, "runs": 5,
                    "baseline_mean": 0.5, "baseline_deviation": 0.02, "difference": 0.4, "low": 0.3, "high": 0.5,
                    "p": 0.001, "method": "t over 5 pairs", "verdict": "better",
                }
            ],
        }
    ],
    "runs": [{"method": "deep", "seed": s, "accuracy": 0.9 + s / 100} for s in range(3)],
    "command": "python -m experiments.toy_classifier",
    "environment": {"date": "2026-01-02T00:00:00Z", "packages": {"jax": "0.10", "flax": "0.12"}},
    "processor_seconds": 90.0,
}  # fmt: skip


def folder(path, **changes):
    (path / "plots").mkdir(parents=True)
    (path / "plots" / "one.png").write_bytes(b"\x89PNG")
    (path / "summary.json").write_text(json.dumps(SUMMARY | changes))
    return str(path)


def test_all_studies_stand_on_one_page(tmp_path, capsys):
    assert main(["report", folder(tmp_path / "a"), folder(tmp_path / "b"), "--out", str(tmp_path / "page")]) == 0
    text = (tmp_path / "page" / "report.md").read_text()
    assert "![one](../a/plots/one.png)" in text
    assert "Deep \\| is better | accuracy | deep | 0.900 ± 0.010 (5) | linear" in text
    page = (tmp_path / "page" / "report.html").read_text()
    assert page.count("data:image/png;base64,iVBORw") == 2
    assert "+0.400 (+0.300 to +0.500)" in page
    assert main(["report", str(tmp_path / "page")]) == 2
    assert "is not the folder of a finished study" in capsys.readouterr().err


def test_a_page_shows_what_looks_like_html_as_text(tmp_path, capsys):
    hostile = "<script>alert(1)</script>&\"'"
    question = SUMMARY["questions"][0]
    comparison = question["comparisons"][0] | {"treatment": hostile, "baseline": hostile, "verdict": hostile}
    questions = [question | {"claim": hostile, "verdict": hostile, "metric": hostile, "comparisons": [comparison]}]
    given = folder(tmp_path / "a", title=hostile, command=hostile, questions=questions)
    (tmp_path / "a" / "plots" / '<script>"x.png').write_bytes(b"")
    assert main(["report", given, "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#x27;") == 8


def test_two_folders_are_compared(tmp_path, capsys):
    rows = [row | {"accuracy": row["accuracy"] + 0.1} for row in SUMMARY["runs"]]
    other = folder(tmp_path / "b", config={"study": "toy_classifier", "seed": 1}, runs=rows)
    assert main(["compare", folder(tmp_path / "a"), other]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"seed +0 +1\n", printed)
    assert re.search(r"accuracy +\+0.1 +.*3\n", printed)


def test_tables_are_written_from_summaries(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(overview, "ROOT", tmp_path)
    monkeypatch.setattr(overview, "RESULTS", tmp_path / "docs" / "results")
    (tmp_path / "README.md").write_text("# Title\n<!-- results -->\nold\n<!-- end of results -->\nend\n")
    assert main(["tables", folder(tmp_path / "a")]) == 0
    assert (tmp_path / "docs" / "results" / "toy_classifier.json").exists()
    readme = (tmp_path / "README.md").read_text()
    figures = "accuracy: deep 0.900 ± 0.010 (5), against linear 0.500 ± 0.020: +0.400 (+0.300 to +0.500)"
    assert f"| Deep \\| is better | holds | {figures} | toy\\_classifier |" in readme
    assert "\nold\n" not in readme
    assert readme.endswith("end\n")
    assert (
        "1.5 min of processor time, 2026-01-02, jax 0.10, flax 0.12." in (tmp_path / "docs" / "results.md").read_text()
    )


@pytest.mark.parametrize(
    ("better", "expected", "differences", "shown"),
    [
        ("higher", "better", (0.3, 0.1, 0.2), 0.1),
        ("lower", "better", (-0.3, 0.1, -0.2), 0.1),
        ("higher", "same", (0.01, -0.04, 0.02), -0.04),
        ("higher", "better", (None, 0.5), 0.5),
    ],
)
def test_a_claim_is_shown_by_the_comparison_that_speaks_least_for_it(better, expected, differences, shown):
    question = SUMMARY["questions"][0]
    comparisons = [question["comparisons"][0] | {"difference": d} for d in differences]
    text = overview.least_favourable(question | {"better": better, "expected": expected, "comparisons": comparisons})
    assert f": {shown:+.3f} (" in text
    assert text.endswith(f"(of {len(differences)})")


def test_a_sweep_runs_each_combination(tmp_path, monkeypatch, capsys):
    commands = []

    def run(words, **options):
        commands.append(words[2:])
        folder(Path(words[-1].partition("=")[2]))
        return dataclasses.make_dataclass("Done", ["returncode"])(0)

    monkeypatch.setattr(overview.subprocess, "run", run)
    assert main(["sweep", "toy_classifier", "--hidden=1,2", "--seeds=3", f"--out={tmp_path}"]) == 0
    assert [words[:3] for words in commands] == [
        ["experiments.toy_classifier", "--seeds=3", f"--hidden={n}"] for n in (1, 2)
    ]
    assert re.search(r"\n2 +accuracy +deep", capsys.readouterr().out)
    assert main(["sweep", "nothing"]) == 2
    assert main(["sweep", "toy_classifier", "hidden"]) == 2
    assert "takes options as --a.b=1,2,3, got hidden" in capsys.readouterr().err


def test_the_name_of_a_study_is_explained(capsys):
    assert main(["toy_classifier", "--seeds", "3"]) == 2
    assert "run it with `python -m experiments.toy_classifier --seeds 3`" in capsys.readouterr().out
    assert main(["toy"]) == 2
    assert "there is no study or command 'toy'" in capsys.readouterr().err
