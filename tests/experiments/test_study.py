"""The runs of a study: made once, resumed where they were killed, shared by processes, and never taken for others."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from experiments import toy_classifier
from experiments.study import (
    Question,
    Recipe,
    Start,
    StudyConfig,
    Training,
    TrainingConfig,
    axis,
    open_study,
    product,
    report,
)
from experiments.study.config import command_line, from_settings, nested, settings
from experiments.study.grid import code_fingerprint
from experiments.study.training import fit_model
from train.errors import UsageError
from train.objective import Term
from train.records import plots

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Config(StudyConfig):
    """A study of sums."""

    seeds: int = axis(2)
    """Runs."""
    size: int = 3
    """Something that counts."""
    training: Training = TrainingConfig(steps=4)
    """How."""


QUESTIONS = (Question("value", {"method": "b"}, ({"method": "a"},), claim="b is more than a"),)


def study(path, calls=None, data=0, function=None, report=False, **options):
    """Values of two methods over seeds, or the report on them; `calls` gets the setting of each run that is made."""
    config = dataclasses.replace(Config(), workdir=str(path), **options)

    def evaluate(method, seed):
        if calls is not None:
            calls.append((method, seed))
        return {"value": seed + 10 * (method == "b") + config.size} if function is None else function(method, seed)

    with open_study(config, "Sums.\n\nMore.") as run:
        run.uses(data)
        results = run.all(product(method="ab", seed=range(config.seeds)), evaluate)
        return run.report(results, QUESTIONS) if report else results


def test_runs_are_made_once_and_more_seeds_add_some(tmp_path):
    calls = []
    study(tmp_path, calls, seeds=1)
    assert calls == [("a", 0), ("b", 0)]
    results = study(tmp_path, calls, seeds=2)
    assert calls[2:] == [("a", 1), ("b", 1)]
    assert [row["value"] for row in results] == [3, 4, 13, 14]
    study(tmp_path, calls, seeds=1)  # fewer are a part of what is there
    assert len(calls) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"size": 5, "allow_changed": "size"},
        {"data": 1},
        {"training": TrainingConfig(steps=5), "allow_changed": "steps"},
    ],
)
def test_results_of_another_config_or_other_data_are_made_again(tmp_path, change):
    calls = []
    study(tmp_path, calls)
    results = study(tmp_path, calls, **change)
    assert len(calls) == 8
    assert results == study(tmp_path / "fresh", **change)


def test_another_config_is_refused_with_the_ways_out(tmp_path):
    study(tmp_path)
    with pytest.raises(UsageError, match="size was 3 and is now 4; give another --workdir, or delete that folder"):
        study(tmp_path, size=4)


def test_a_run_of_changed_code_is_made_again_but_not_of_changed_words(tmp_path):
    file = tmp_path / "study.py"
    versions = ['"""Doc."""\nQUESTIONS = 1\ndef f(x):\n    return x + 1\n']
    versions.append('"""Other."""\nQUESTIONS = 2\ndef f(x):\n    "More."\n    # and more\n    return x + 1\n')
    versions.append('"""Doc."""\nQUESTIONS = 1\ndef f(x):\n    return x + 2\n')
    found = []
    for text in versions:
        file.write_text(text)
        found.append(code_fingerprint(file))
    assert found[0] == found[1] != found[2]


def test_what_builds_on_another_run_is_made_again_with_it(tmp_path):
    calls = []

    def chain(**options):
        config = dataclasses.replace(Config(), workdir=str(tmp_path), seeds=2, **options)

        def first(seed):
            calls.append(("first", seed))
            return {"start": seed}

        def second(seed, dose):
            calls.append(("second", seed, dose))
            return {"value": dose}

        with open_study(config, "") as run:
            run.uses(options.get("seed", 0))
            starts = run.all(product(seed=range(2)), first)
            return run.all(product(seed=range(2), dose=(1, 2)), second, on=starts)

    assert [row["value"] for row in chain()] == [1, 2, 1, 2]
    count = len(calls)
    chain()
    assert len(calls) == count
    record = tmp_path / "runs" / "seed=0" / "run.json"
    identity = json.loads(record.read_text())
    (tmp_path / "runs" / "seed=0" / "result.json").unlink()
    record.write_text(json.dumps(identity | {"code": "older"}))
    chain()  # the first run of seed 0 is made again; its key is the same as before, so what builds on it stands
    assert calls[count:] == [("first", 0)]


def test_numbers_that_are_not_finite_come_back(tmp_path):
    values = {"value": math.nan, "other": [math.inf, 1.5], "name": "x"}
    with open_study(dataclasses.replace(Config(), workdir=str(tmp_path)), "") as run:
        for _ in range(2):
            (row,) = run.all([{}], lambda: values)
            assert math.isnan(row["value"])
            assert (row["other"], row["name"]) == ([math.inf, 1.5], "x")
        with pytest.raises(UsageError, match="returns values with the names of its settings"):
            run.all([{"dose": 1}], lambda dose: {"dose": 2})
        with pytest.raises(UsageError, match="two runs of the study have the same setting"):
            run.all([{"dose": 1}, {"dose": 1}], lambda dose: {"value": 2})


def test_a_folder_is_that_of_a_run(tmp_path):
    def evaluate(seed, method):
        assert (run.folder(method=method, seed=seed).path / "run.json").exists()  # in whatever order
        with pytest.raises(UsageError, match="no run of the study has the setting"):
            run.folder(seed=seed)
        return {"value": 1}

    with open_study(dataclasses.replace(Config(), workdir=str(tmp_path)), "") as run:
        run.all(product(seed=[0], method="ab"), evaluate)


def test_a_list_gives_a_row_for_each(tmp_path):
    with open_study(dataclasses.replace(Config(), workdir=str(tmp_path)), "") as run:
        rows = run.all(product(seed=[3, 4]), lambda seed: [{"step": n, "value": seed * n} for n in (1, 2)])
    assert rows == [{"seed": s, "step": n, "value": s * n} for s in (3, 4) for n in (1, 2)]


def test_a_killed_study_goes_on_at_the_run_that_was_killed(tmp_path):
    calls = []

    def fail(method, seed):
        if (method, seed) == ("b", 0) and len(calls) < 5:
            raise KeyboardInterrupt
        return {"value": seed}

    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, calls, function=fail)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, calls, function=fail)
    assert calls == [("a", 0), ("a", 1), ("b", 0), ("b", 0)]
    study(tmp_path, calls, function=fail)
    assert calls[4:] == [("b", 0), ("b", 1)]


def test_a_run_that_another_process_makes_is_waited_for(tmp_path):
    study(tmp_path, seeds=1)
    place = tmp_path / "runs" / "method=b,seed=0"
    result = (place / "result.json").read_text()
    (place / "result.json").unlink()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place), result], cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    calls = []
    results = study(tmp_path, calls, seeds=1)
    holder.communicate()
    assert holder.returncode == 0
    assert calls == []
    assert results[1]["value"] == json.loads(result)["values"]["value"]


HOLD = """
import sys, time
from pathlib import Path
from train.records.lock import lock_folder
lock_folder(sys.argv[1])
print("held", flush=True)
time.sleep(1)
Path(sys.argv[1], "result.json").write_text(sys.argv[2])
"""


def test_a_dry_run_takes_the_first_setting_of_each_method(tmp_path, capsys):
    calls = []
    assert study(tmp_path / "x", calls, dry_run=True, report=True, seeds=5) == {}
    assert calls == [("a", 0), ("b", 0)]
    assert "all 10 runs: about 0.0 min" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_report_says_when_its_runs_are_of_several_commits(tmp_path):
    study(tmp_path)
    path = tmp_path / "runs" / "method=a,seed=0" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "0123abc"}))
    assert "0123abc" in study(tmp_path, report=True)["commits"]
    assert "The runs are from 2 commits: 0123abc" in (tmp_path / "report.md").read_text()


def test_a_config_survives_its_file_and_its_command():
    config = toy_classifier.Config(labels=("random",), hidden=7, epochs=3)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, batch_size=9, checks=True))
    values = json.loads(json.dumps(nested(settings(config))))
    assert from_settings(toy_classifier.Config, values) == config
    words = command_line(config, "toy_classifier")
    options = "--labels random --epochs 3 --hidden 7 --batch-size 9 --checks"
    assert " ".join(words) == f"python -m experiments.toy_classifier {options}"
    with pytest.raises(UsageError, match="has no option 'speed'"):
        from_settings(toy_classifier.Config, values | {"speed": 1})


def test_a_recipe_is_traced_for_a_study_and_not_for_a_run(tmp_path):
    traces = []

    def objective(params, batch, ctx):
        traces.append(1)
        return {"square": Term((params["w"] - batch["x"]) ** 2, weights=1)}

    def batches(seed):
        rng = np.random.default_rng(seed)
        while True:
            yield {"x": rng.normal(size=2).astype(np.float32)}

    counts = []
    with open_study(dataclasses.replace(Config(), workdir=str(tmp_path)), "") as run:
        recipe = Recipe(objective, {"square": 1.0}, optax.sgd(0.1))

        def learn(seed):
            training = TrainingConfig(steps=3, devices=1)
            start = Start({"w": np.float32(seed)}, seed)
            fit_model(recipe, start, batches(seed), training=training, folder=run.folder(seed=seed))
            counts.append(len(traces))
            return {"value": 1}

        run.all(product(seed=range(10)), learn)
    assert counts == counts[:1] * 10


def toy(path, **changes):
    config = dataclasses.replace(toy_classifier.Config().fast(), fast_dev_run=True, workdir=str(path), **changes)
    return toy_classifier.main(config)


SMALL = {"initializers": ("he_normal",), "labels": ("dependent",)}


def test_toy_with_other_epochs_reports_its_own_figures(tmp_path):
    toy(tmp_path / "run", **SMALL)
    longer = toy(tmp_path / "run", epochs=5, allow_changed="epochs", **SMALL)
    assert longer["runs"] == toy(tmp_path / "fresh", epochs=5, **SMALL)["runs"]


def test_toy_trains_all_networks_with_one_compilation(tmp_path):
    compiled = []

    def count(name, seconds, **more):
        if name == "/jax/core/compile/backend_compile_duration":
            compiled.append(name)

    toy(tmp_path / "first", **SMALL)  # what is evaluated op by op is compiled once in the process
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        before = len(compiled)
        toy(tmp_path / "few", **SMALL)
        few = len(compiled) - before
        toy(tmp_path / "many", **SMALL | {"seeds": 6})
        assert len(compiled) - before - few == few  # the step of its recipe, and nothing more for more networks
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert few <= 3


def command(path, *more):
    options = ["--fast-dev-run", "--workdir", str(path), "--initializers", "he_normal", "--labels", "dependent"]
    return [sys.executable, "-m", "experiments.toy_classifier", *options, "--seeds", "4", *more]


def rows(path):
    return json.loads((path / "summary.json").read_text())["runs"]


@pytest.mark.faults
def test_processes_that_share_the_runs_give_the_same_results(tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    for name, more in (("one", []), ("two", ["--jobs", "2"])):
        subprocess.run(command(tmp_path / name, *more), cwd=ROOT, env=environment, check=True, capture_output=True)
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert (tmp_path / "two" / "jobs" / "1.log").exists()


@pytest.mark.faults
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_killed_processes_are_resumed(tmp_path, sent):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command(tmp_path / "run", "--jobs", "2"), cwd=ROOT, env=environment)
    while len(list((tmp_path / "run").glob("runs/*/result.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(sent)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("runs/*/result.json")}
    subprocess.run(command(tmp_path / "run", "--jobs", "2"), cwd=ROOT, env=environment, check=True)
    subprocess.run(command(tmp_path / "whole"), cwd=ROOT, env=environment, check=True)
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


def test_the_cost_of_a_report_counts_what_its_results_build_on(tmp_path):
    with open_study(dataclasses.replace(Config(), workdir=str(tmp_path)), "Sums.") as run:
        starts = run.all(product(stage=["first", "of nothing"], seed=range(2)), lambda stage, seed: {"start": 1})
        tuned = run.all([{"tuned": "b"}], lambda tuned: {"rate": 1}, on=[row for row in starts if row["seed"] == 0])
        results = run.all(product(method="ab", seed=range(2)), lambda method, seed: {"value": seed}, on=tuned)
        run.report(results)
    assert "7 runs, " in (tmp_path / "report.md").read_text()  # two of each method, the one that tuned, its two starts


def test_a_question_on_some_tasks_is_drawn_for_these(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "bars", lambda path, values, **options: drawn.append(values))
    rows = [
        {"task": task, "method": method, "seed": seed, "error": 0.1 * len(task) + 0.01 * seed}
        for task, methods in {"spam": "abc", "digits": "ab", "words": "c"}.items()
        for method in methods
        for seed in range(5)
    ]
    for at, expected in {
        (): ["spam", "digits"],
        ("digits",): ["digits"],
        (("spam", "digits"),): ["spam", "digits"],
    }.items():
        question = Question("error", {"method": "a"}, ({"method": "b"},), by="task", at=at)
        report._plot(tmp_path / "plots" / "question.png", rows, question)
        assert list(drawn.pop()) == expected
