"""Every experiment runs to its end, resumes, refuses a folder of another config, and explains itself."""

import dataclasses
import fcntl
import importlib
import itertools
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import study
from experiments.__main__ import studies
from experiments.evaluation.few_shot import FewShotConfig, Tuning
from experiments.study import cli, load, many, open_study
from experiments.study.config import fields
from experiments.study.training import FINAL
from train.errors import UsageError
from train.records.checkpoint import Checkpointer

AT_ONCE = (
    "causal_variants",
    "imbalance",
    "landscape",
    "minima",
    "optimizers",
    "outliers",
    "robust",
    "sentence_embeddings",
    "syntax_tree",
    "tabular",
)
"""Studies that train all networks of a method in one program, and compile for half a minute."""
TEXTS = ("text_classification",)
"""Studies that pretrain once, and train the rest in one program each."""
TUNED = ("hierarchical_lm", "mlm_variants", "speech_ctc")
"""Studies with separate runs to try learning rates."""
STANDING = ("bert_pretrain", "causal_lm", "simclr", "toy_classifier")
NAMES = tuple(sorted((*STANDING, *AT_ONCE, *TEXTS, *TUNED)))
RUN = [pytest.param(name, marks=() if name in STANDING else pytest.mark.full) for name in NAMES]
CHECKPOINTED = ("bert_pretrain", "causal_lm", "simclr")


def module(name):
    return importlib.import_module(f"experiments.{name}")


def run(name, workdir, **changes):
    fast = dataclasses.replace(module(name).Config().fast(), fast_dev_run=True)
    return module(name).main(dataclasses.replace(fast, workdir=str(workdir), **changes))


def call(name, *arguments):
    """Runs a study by its command line."""
    study = module(name)
    cli.run(study.main, study.Config, study.__doc__, [*arguments])


def contents(folder):
    """The study's own files, without those that name a commit or a process."""
    left_out = ("environment.json", "summary.json", ".lock")
    files = [path for path in folder.iterdir() if path.is_file() and path.name not in left_out]
    summary = json.loads((folder / "summary.json").read_text())
    del summary["environment"]
    return {path.name: path.read_bytes() for path in files} | {"summary": summary}


def results(folder):
    """The summary without what differs from run to run: how long it took, and when."""
    summary = json.loads((folder / "summary.json").read_text())
    times = ("processor_seconds", "wall_seconds", "environment", "commits")
    return {name: value for name, value in summary.items() if name not in times}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_directory):
    """The folder of a finished fast run of an experiment; one worker process makes it, the others copy it."""
    shared = data_directory.parent / "finished"
    folders: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "run"
            shared.mkdir(exist_ok=True)
            with (shared / f"{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if (shared / name).exists():
                    shutil.copytree(shared / name, folders[name])
                else:
                    run(name, folders[name])
                    shutil.copytree(folders[name], shared / name)
        return folders[name]

    return of


def test_list_of_studies_is_that_of_the_tests():
    assert tuple(studies()) == NAMES


def test_listing_has_a_line_for_each():
    done = subprocess.run([sys.executable, "-m", "experiments"], capture_output=True, text=True, check=True)
    for name in NAMES:
        assert f"  {name} " in done.stdout
        assert module(name).__doc__.splitlines()[0] in done.stdout


@pytest.mark.parametrize("name", RUN)
def test_fast_dev_run_leaves_everything_behind(name, finished):
    folder = finished(name)
    config = json.loads((folder / "config.json").read_text())
    assert (config["study"], config["fast_dev_run"]) == (name, True)
    assert config["seed"] == 0
    assert "workdir" not in config
    assert "jax" in json.loads((folder / "environment.json").read_text())["packages"]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert records
    assert all(record["values"] for record in records)
    assert len((folder / "metrics.csv").read_text().splitlines()) == len(records) + 1
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["questions"]
    assert all(question["comparisons"] or question["missing"] for question in summary["questions"])
    report = (folder / "report.md").read_text()
    pictures = sorted(path.name for path in (folder / "plots").iterdir())
    assert pictures
    assert [name for name in pictures if f"plots/{name}" not in report] == []


@pytest.mark.parametrize("name", RUN)
def test_finished_run_is_not_computed_again(name, finished, capsys):
    folder = finished(name)
    before = contents(folder)
    run(name, folder)
    after = contents(folder)
    assert after == before
    assert str(folder.name) in capsys.readouterr().out


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_interrupted_run_ends_like_one_that_was_not(name, finished, tmp_path, monkeypatch):
    whole, folder = finished(name), tmp_path / "run"
    save, saved = Checkpointer.save, []

    def save_once(self, step, state):
        save(self, step, state)
        saved.append(step)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpointer, "save", save_once)
    with pytest.raises(KeyboardInterrupt):
        run(name, folder)
    assert not (folder / "summary.json").exists()
    restored = []
    monkeypatch.setattr(
        Checkpointer, "save", lambda self, step, state: (restored.append(self.latest_step), save(self, step, state))
    )
    run(name, folder)
    assert restored[0] == saved[0]  # it resumed, and did not start from scratch
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert results(folder) == results(whole)


def test_toy_runs_that_are_there_are_kept(tmp_path, finished, monkeypatch):
    toy, folder = module("toy_classifier"), tmp_path / "run"
    fit, calls = toy.train_baseline, []

    def fail_at_the_second(data):
        calls.append(data)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(data)

    monkeypatch.setattr(toy, "train_baseline", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run("toy_classifier", folder)
    run("toy_classifier", folder)
    assert len(calls) == 2 + 3  # of four, one was kept
    assert results(folder) == results(finished("toy_classifier"))


@pytest.mark.faults
@pytest.mark.parametrize("name", AT_ONCE)
def test_killed_study_goes_on_with_what_it_has(name, finished, tmp_path, monkeypatch):
    whole, folder, calls, search = finished(name), tmp_path / "run", [], many.search_rates

    def die_at_the_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return search(*args)

    monkeypatch.setattr(many, "search_rates", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(name, folder)
    (kept,) = folder.glob("runs/*/result.json")
    written = kept.stat().st_mtime_ns
    run(name, folder)
    assert kept.stat().st_mtime_ns == written  # what was done was not made again
    assert results(folder) == results(whole)


@pytest.mark.faults
@pytest.mark.parametrize("name", TUNED)
def test_killed_study_of_tuned_runs_keeps_those_that_are_done(name, finished, tmp_path, monkeypatch):
    whole, folder, calls, fit_model = finished(name), tmp_path / "run", [], study.fit_model

    def die_at_the_third(*args, **options):
        folder = options["folder"].path
        if not (folder / FINAL).exists():  # otherwise it is loaded, to be drawn
            calls.append(folder.name)
            if len(calls) == 3:
                raise KeyboardInterrupt
        return fit_model(*args, **options)

    monkeypatch.setattr(study, "fit_model", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(name, folder)
    run(name, folder)
    assert calls[2] == calls[3]
    assert len(calls) == len({*calls}) + 1  # what was finished was not trained again
    assert results(folder) == results(whole)


@pytest.mark.parametrize("name", RUN)
def test_workdir_of_another_config_is_refused(name, finished):
    folder = finished(name)
    with pytest.raises(UsageError, match=r"seed was 0 and is now 1; give another --workdir, or delete that folder"):
        run(name, folder, seed=1)


@pytest.mark.parametrize("name", NAMES)
def test_mistyped_option_gets_a_suggestion(name, capsys):
    with pytest.raises(SystemExit) as stop:
        call(name, "--sedd", "1")
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert "--seed" in printed.out + printed.err


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_every_field_with_its_default(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # no default is broken into lines
    with pytest.raises(SystemExit) as stop:
        call(name, "--help")
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    shown = " ".join(printed.split())
    paragraphs = [
        part for part in (module(name).__doc__ or "").split("\n\n") if part.strip()[0] != "-" and part[0] != " "
    ]
    assert all(part.strip().replace("\n", " ") in printed for part in paragraphs)
    for option, _, default in fields(module(name).Config()):
        assert f"--{option.replace('_', '-')}" in shown
        parts = itertools.chain(*default.items()) if isinstance(default, dict) else default
        text = shlex.join(map(str, parts)) if isinstance(default, tuple | dict) else shlex.quote(str(default))
        assert f"default: {text}" in shown


def test_error_of_the_user_is_one_sentence_and_code_2(tmp_path, capsys):
    arguments = ["--fast-dev-run", "--workdir", str(tmp_path / "run"), "--data.path", str(tmp_path / "no.txt")]
    with pytest.raises(SystemExit) as stop:
        call("causal_lm", *arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: There is no text file")
    assert "Traceback" not in printed


SLOW_TO_COMPILE = [pytest.param(name, marks=pytest.mark.faults) for name in ("bert_pretrain", "simclr")]


@pytest.mark.parametrize("name", ["causal_lm", "toy_classifier", *SLOW_TO_COMPILE])
def test_dry_run_tells_the_cost_and_writes_nothing(name, tmp_path, monkeypatch, capsys):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"This is sentence {i}. It has another.\nHere is more.\n\n" for i in range(600)))
    monkeypatch.chdir(tmp_path)
    of_text = ["--data.path", "text.txt", "--data.tokenizer", "bytes"]
    data = {"simclr": ["--data.name", "digits"], "toy_classifier": []}.get(name, of_text)
    call(name, "--fast-dev-run", "--dry-run", "--workdir", str(tmp_path / "run"), *data)
    printed = capsys.readouterr().out
    parts = (
        "nothing is written",
        "parameters",
        "FLOP",
        "memory on each device",
        "temporaries",
        "s a step",
        "runs: about",
    )
    for part in parts:
        assert part in printed
    assert list(tmp_path.iterdir()) == [text]


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_option_beside_fast_dev_run_wins(name):
    default = module(name).Config()
    fast = default.fast()
    assert fast.training.steps not in (default.training.steps, 7)
    seen, usual = [], str(default.training.steps)
    for options in ([], ["--steps", "7"], ["--config.steps", usual, "--optimizer.learning-rate", "0.5"]):
        cli.run(seen.append, module(name).Config, "", ["--fast-dev-run", *options])
    assert [config.training.steps for config in seen] == [fast.training.steps, 7, default.training.steps]
    assert seen[0] == dataclasses.replace(fast, fast_dev_run=True)
    assert seen[2].training.optimizer.learning_rate == 0.5
    assert seen[2].training.batch_size == fast.training.batch_size


def test_options_of_the_call_are_no_part_of_the_run(tmp_path):
    config = module("causal_lm").Config(workdir=str(tmp_path / "run"))
    with open_study(config, ""):
        pass
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert not {"workdir", "profile", "dry_run", "tensorboard", "jobs", "mesh", "processes"} & {*settings}
    assert "skip_budget" not in settings["data"]
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    other = dataclasses.replace(config.data, skip_budget=3)
    with open_study(dataclasses.replace(config, data=other, profile=(1, 2), tensorboard=True, seeds=9), ""):
        pass  # and `seeds` only lists runs
    longer = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=7))
    with pytest.raises(UsageError, match="steps was 500 and is now 7"), open_study(longer, ""):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1, but it is 0"),
        (["--seed", "-1"], "--seed must be at least 0, but it is -1"),
        (["--transfer.budgets", "8", "0", "9"], "--transfer.budgets must be at least 1, but it is 0"),
        (["--data.seq-len", "-5"], "--data.seq-len must be at least 1, but it is -5"),
        (["--data.skip-budget", "-1"], "--data.skip-budget must be at least 0, but it is -1"),
    ],
)
def test_number_out_of_range_is_one_sentence(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda config: None, module("bert_pretrain").Config, "", options)
    assert stop.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": (8,)}, "pretrained.steps needs one number for each of the 1 --transfer.budgets, got 3"),
        ({"scratch": Tuning((1, 2, 3), (0.1,), (1.0,) * 3)}, "scratch.probe-c needs one number for each of the 3"),
        ({"scratch": Tuning((1, 2, 3), (1.0, 0.0, 1.0), (1.0,) * 3)}, "scratch.probe-c must be positive, but it is"),
        ({"scratch": Tuning((1, 2, 3), (1.0,) * 3, (1.0, -1.0, 1.0))}, "scratch.rates must not be negative, but they"),
    ],
)
def test_transfer_that_cannot_be_is_refused(options, message):
    with pytest.raises(UsageError, match=f"--transfer.{message}"):
        FewShotConfig(**options)


def test_list_without_a_value_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda config: None, module("toy_classifier").Config, "", ["--initializers"])
    assert stop.value.code == 2
    assert "error: --initializers needs at least one value" in capsys.readouterr().err


def test_missing_package_is_said_before_anything_is_done(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # importing it now raises
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda config: None, module("causal_lm").Config, "", ["--tensorboard"])
    assert stop.value.code == 2
    assert "error: logs for TensorBoard need the package tensorboardX" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_printed_config_is_what_the_folder_keeps(name, capsys):
    call(name, "--fast-dev-run", "--seed", "4", "--print-config")
    printed = json.loads(capsys.readouterr().out)
    assert (printed["seed"], printed["fast_dev_run"]) == (4, True)
    assert printed["optimizer"]["name"] == module(name).Config().training.optimizer.name


@pytest.mark.parametrize("option", ["--mesh.fsdp", "--processes.count"])
def test_only_pretraining_studies_are_spread(option, capsys):
    for name in ("toy_classifier", "simclr"):
        with pytest.raises(SystemExit) as stop:
            call(name, option, "2")
        assert stop.value.code == 2
        group = option.partition(".")[0]
        assert (
            f"error: {name} trains small models, each on one process with whole parameters, and has no {group}.*"
            in (capsys.readouterr().err)
        )
    for name in ("causal_lm", "bert_pretrain"):
        cli.run(lambda config: None, module(name).Config, "", [option, "2"])


def test_text_without_labels_is_reported_as_what_it_is(tmp_path, capsys):
    file = tmp_path / "my_words.txt"
    file.write_text("".join(f"This is line {i}.\nIt is followed by another one.\n\n" for i in range(2_000)))
    bert = module("bert_pretrain")
    config = dataclasses.replace(bert.Config().fast(), fast_dev_run=True, workdir=str(tmp_path / "run"))
    data = dataclasses.replace(config.data, path=str(file), tokenizer="bytes")
    bert.main(dataclasses.replace(config, data=data))
    report = (tmp_path / "run" / "report.md").read_text()
    assert report.startswith("# BERT on my\\_words.txt")
    left_out = "Fine-tuning is skipped: no passage of my_words.txt has a label."
    assert left_out in report.replace("\\", "")
    assert left_out in capsys.readouterr().out
    said = report.replace("Labels are the groups of books", "") + (tmp_path / "run" / "summary.json").read_text()
    assert not [word for word in ("World English", "books", "chapter") if word in said]


@pytest.mark.parametrize("name", RUN)
def test_model_of_a_folder_is_given_back(name, finished):
    model, params, tokenizer = load(finished(name))
    text = name in ("bert_pretrain", "causal_lm", "causal_variants", "mlm_variants", "text_classification")
    assert (tokenizer is not None) == text
    if name == "toy_classifier":
        assert model.apply({"params": params}, np.zeros((2, 1), np.float32)).shape == (2, 1)
    if name in ("causal_lm", "causal_variants"):
        ids = tokenizer.encode("In the beginning")[None]
        assert model.apply({"params": params}, ids, valid=ids >= 0).shape == (*ids.shape, tokenizer.vocab_size)
    with pytest.raises(UsageError, match="contains no model"):
        load(finished(name) / "plots")
