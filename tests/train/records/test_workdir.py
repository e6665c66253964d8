"""What a run writes: whole files, exact numbers, and refusals that say what to do."""

import csv
import dataclasses
import enum
import errno
import json
import math
import os
import pathlib
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from train.errors import RunFailed, UsageError
from train.files import differences, parse_json, to_json, write_atomic
from train.records.lock import lock_folder
from train.records.metrics_log import MetricsWriter, curve, read_metrics
from train.records.report import Image, Section, Table, markdown_table, write_report
from train.records.workdir import _git_state, close_workdir, environment, open_workdir, write_summary


class Mode(enum.Enum):
    FAST = 1


@dataclasses.dataclass(frozen=True)
class Data:
    name: str = "digits"
    path: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    sizes: tuple[int, ...] = (1, 2)
    clip: float = math.inf
    mode: Mode = Mode.FAST
    data: Data = dataclasses.field(default_factory=Data)


def test_importing_the_loop_imports_neither_plots_nor_checkpoints_nor_data():
    code = (
        "import sys, logging, train.loop, train.records.workdir, train.records.checkpoint, train.records.plots;"
        "assert hasattr(logging, 'getLogger');"
        "bad = [m for m in ('matplotlib', 'orbax', 'grain', 'tensorflow', 'tensorflow_datasets') if m in sys.modules];"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pathlib.Path(__file__).parents[3])


def test_open_workdir(tmp_path):
    workdir = open_workdir(tmp_path / "runs" / "a", Config())
    assert json.loads((workdir / "config.json").read_text()) == {
        "seed": 0,
        "sizes": [1, 2],
        "clip": "inf",
        "mode": "FAST",
        "data": {"name": "digits", "path": None},
    }
    (workdir / "metrics.jsonl").write_text("")
    assert open_workdir(workdir, Config()) == workdir
    with pytest.raises(
        UsageError,
        match=r'seed was 0 and is now 1; data\.name was "digits" and is now "mnist"; give another --workdir, or delete '
        r"that folder to start again, or accept the change by name: --allow-changed seed,data\.name$",
    ):
        open_workdir(workdir, Config(seed=1, data=Data(name="mnist")))
    with pytest.raises(UsageError, match=r'clip was "inf" and is now null;'):
        open_workdir(workdir, Config(clip=None))


def test_a_folder_in_which_nothing_was_run_is_taken_over(tmp_path):
    open_workdir(tmp_path, Config(data=Data(name="mnits")))  # and then there was no such data
    open_workdir(tmp_path, Config(data=Data(name="mnist")))
    assert json.loads((tmp_path / "config.json").read_text())["data"]["name"] == "mnist"
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["config.json", "environment.json"]


def test_open_workdir_refuses_what_is_no_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match=r"has thesis\.tex but no config\.json"):
        open_workdir(tmp_path, {})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json cannot be read .* another --workdir"):
        open_workdir(tmp_path, {})
    with pytest.raises(UsageError, match=r"cannot create the workdir .* choose a place that can be written"):
        open_workdir(tmp_path / "thesis.tex" / "run", {})


def test_open_workdir_after_a_kill_while_it_was_written(tmp_path):
    (tmp_path / ".config.json.17.tmp").write_text("{")
    open_workdir(tmp_path, {"a": 1})
    (tmp_path / "environment.json").unlink()
    open_workdir(tmp_path, {"a": 1})
    assert (tmp_path / "environment.json").exists()


def test_environment_is_told_without_paths(tmp_path):
    workdir = open_workdir(tmp_path / "run", {})
    text = (workdir / "environment.json").read_text()
    found = json.loads(text)
    assert found["packages"]["jax"] == __import__("jax").__version__
    assert found["packages"]["numpy"] == np.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["devices"]["count"] == 8
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["date"])
    assert not re.search(r'"/|\\\\|' + re.escape(str(pathlib.Path.home())), text)


def test_environment_that_changed_is_noted(tmp_path, capsys):
    workdir = open_workdir(tmp_path / "run", {})
    path = workdir / "environment.json"
    first = path.read_text()
    open_workdir(workdir, {})
    assert path.read_text() == first  # the date of the start stays
    old = json.loads(first)
    old["packages"]["jax"] = "0.1"
    path.write_text(json.dumps(old))
    open_workdir(workdir, {})
    assert "another environment (different: packages.jax)" in capsys.readouterr().err
    assert json.loads(path.read_text())["packages"] == environment()["packages"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_state(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "core.hooksPath=/dev/null"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=clean).stdout.strip()

    source = tmp_path / "code.py"
    source.write_text("1")
    assert _git_state(source) is None
    git("init", "-q")
    assert _git_state(source) is None  # a checkout around the file, which does not track it
    git("add", "code.py")
    git("commit", "-q", "-m", "first")
    assert _git_state(source) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    source.write_text("2")
    assert _git_state(source) == {"commit": git("rev-parse", "HEAD"), "dirty": True}


def test_metrics_lines_are_exact(tmp_path):
    value = float(np.float32(0.1))
    with MetricsWriter(tmp_path, every=5) as writer:
        writer(5, None, {"loss": value, "rare": math.nan})
        writer.write(5, "validation", {"ä,b": 1e-300, "loss": math.inf, "rare": -math.inf})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert (
        text.splitlines()[0] == '{"step": 5, "split": "train", "values": {"loss": 0.10000000149011612, "rare": "NaN"}}'
    )
    records = read_metrics(tmp_path)
    assert [record["split"] for record in records] == ["train", "validation"]
    assert records[0]["values"]["loss"] == value
    assert math.isnan(records[0]["values"]["rare"])
    assert records[1]["values"] == {"ä,b": 1e-300, "loss": math.inf, "rare": -math.inf}
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["step", "split", "loss", "rare", "ä,b"],
            ["5", "train", "0.10000000149011612", "nan", ""],
            ["5", "validation", "inf", "-inf", "1e-300"],
        ]
    assert curve(records, "train", "rare") == ([], [])
    assert curve(records, "validation", "ä,b") == ([5], [1e-300])


def test_metrics_of_a_resumed_run(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": step / 3})
        writer.write(step, "validation", {"loss": step / 7})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 4, "spl')  # killed in the middle of a line
    again = MetricsWriter(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    again.truncate_after(1)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 1]
    for step in (2, 3):
        again.write(step, "train", {"loss": step / 3})
        again.write(step, "validation", {"loss": step / 7})
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    again.truncate_after(0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("line", ["{", '{"step": 1}', "3", '{"step": "x", "split": "a", "values": {}}'])
def test_damaged_line_is_named(tmp_path, line):
    MetricsWriter(tmp_path).write(1, "train", {})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(UsageError, match=r"line 2 of .* is damaged; delete that line"):
        read_metrics(tmp_path)


def test_metrics_are_missing(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .* give the folder of a run"):
        read_metrics(tmp_path)
    with pytest.raises(UsageError, match="choose a place that can be written"):
        MetricsWriter(tmp_path / "none")


class limited_files:
    """Limits the size of all files to some bytes, as on a full disk."""

    def __init__(self, size):
        self.size = size

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[0][1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before[0])
        signal.signal(signal.SIGXFSZ, self.before[1])


def test_full_disk_leaves_whole_lines(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, "train", {"loss": 1.0})
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with limited_files(len(before) + 10), pytest.raises(RunFailed, match=r"cannot write .*make room on the disk"):
        writer.write(2, "train", {"loss": 1.0})
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    writer.write(2, "train", {"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 2


def test_full_disk_leaves_the_old_file(tmp_path):
    write_atomic(tmp_path / "a", "old")
    with limited_files(10), pytest.raises(RunFailed, match=r"make room .* what was saved before is intact"):
        write_atomic(tmp_path / "a", "x" * 100)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.EROFS, UsageError), (errno.EACCES, UsageError), (errno.ENOSPC, RunFailed)]
)
def test_disk_errors_by_kind(tmp_path, monkeypatch, code, kind):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(kind, match=os.strerror(code)):
        write_summary(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOENT])
def test_a_folder_that_refuses_is_a_failed_run_once_it_was_opened(tmp_path, monkeypatch, code):
    """Exit codes 2 and 1: at the start nothing was begun, later the run has failed; the metrics and all else agree."""
    opened = os.open

    def refuse(path, flags, *rest, **more):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code))
        return opened(path, flags, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(UsageError, match=r"cannot lock .* choose a place that can be written"):
            open_workdir(tmp_path, {})
    open_workdir(tmp_path, {})
    writer = MetricsWriter(tmp_path)
    monkeypatch.setattr(os, "open", refuse)
    for act in (
        lambda: writer.write(1, "train", {}),
        writer.close,
        lambda: write_summary(tmp_path, {}),
        lambda: write_report(tmp_path, "t", []),
        lambda: MetricsWriter(tmp_path / "none"),
    ):
        with pytest.raises(RunFailed, match=r"cannot write .* any more .* what was saved before is intact"):
            act()
    monkeypatch.undo()
    close_workdir(tmp_path)


def test_files_can_be_read_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_summary(tmp_path):
    path = write_summary(tmp_path, {"f1": jnp.float32(0.5), "seeds": np.arange(2), "best": math.inf, 3: "x"})
    assert path.name == "summary.json"
    assert json.loads(path.read_text()) == {"f1": 0.5, "seeds": [0, 1], "best": None, "3": "x"}


def test_to_json_takes_low_precision_and_refuses_the_rest():
    assert to_json(jnp.array([1.5, 2.0], jnp.bfloat16)) == [1.5, 2.0]
    assert to_json(np.bool_(True)) is True
    for odd in (object(), {1, 2}, lambda: 0, np.array([object()]), 1j):
        with pytest.raises(UsageError, match="which JSON cannot hold"):
            to_json({"a": odd})


def test_nesting_ends_somewhere(tmp_path):
    def nested(levels):
        value = []
        for _ in range(levels - 1):
            value = [value]
        return value

    assert parse_json(json.dumps(to_json(nested(100)))) == nested(100)
    with pytest.raises(ValueError, match="nested more than 100 levels deep"):
        parse_json(json.dumps(nested(101)))
    itself = {}
    itself["a"] = itself
    for value in (nested(101), itself):
        with pytest.raises(UsageError, match="at most 100 levels of nested values"):
            open_workdir(tmp_path / "a", value)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("text", ["[]", "3", "{", "[" * 100_000, '{"a": ' * 5000, "\xff", "1" * 5000, ""], ids=ascii)
def test_a_config_or_environment_of_another_form(tmp_path, capsys, text):
    workdir = open_workdir(tmp_path / "run", {"a": 1})
    (workdir / "metrics.jsonl").write_text("")
    environment = workdir / "environment.json"
    environment.write_text(text, encoding="latin-1")
    open_workdir(workdir, {"a": 1})
    assert "environment.json cannot be read" in capsys.readouterr().err
    assert (workdir / "environment.json.unreadable").read_text(encoding="latin-1") == text
    assert isinstance(json.loads(environment.read_text()), dict)
    (workdir / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"config\.json cannot be read|holds a run with another config"):
        open_workdir(workdir, {"a": 1})
    assert (workdir / "config.json").read_text(encoding="latin-1") == text


@pytest.mark.parametrize("path", ["", "a\0b", "a\udcff", b"a", None, 3], ids=ascii)
@pytest.mark.parametrize(
    "use",
    [
        lambda path: open_workdir(path, {}),
        MetricsWriter,
        read_metrics,
        lambda path: write_summary(path, {}),
        lambda path: write_report(path, "title", []),
        lambda path: write_atomic(path, ""),
        lock_folder,
    ],
)
def test_a_path_is_text_that_names_a_place(path, use):
    with pytest.raises(UsageError, match=r"expected .* as text in UTF-8 that is not empty and has no NUL, got"):
        use(path)


def test_a_file_is_written_through_no_link(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to("victim")
    (tmp_path / "a").symlink_to("victim")
    write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "a").read_text() == "new"


def test_differences_tell_types_apart():
    assert list(differences({"a": 1, "b": True, "c": [1]}, {"a": 1.0, "b": 1, "c": [1, 2], "d": None})) == list("abcd")
    assert differences({"a": {"x": 1}}, {"a": None}) == {"a": ({"x": 1}, None)}
    assert differences({"a": {"x": [1, {"y": 2}]}}, {"a": {"x": [1, {"y": 2}]}}) == {}


def test_report(tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a curve.png").write_bytes(b"")
    sections = [
        Section("Results *so far*", ["Some **text**.\n", Table(["run", "F1"], [["a|b\n<c>", 0.51234], ["d_e", None]])]),
        Section(
            "Curves", [Image(tmp_path / "plots" / "a curve.png", "loss [nats]"), Image("plots/a curve.png", "same")]
        ),
    ]
    path = write_report(tmp_path, "BERT & co", sections)
    assert path.name == "report.md"
    assert path.read_text() == (
        "# BERT &amp; co\n\n"
        "## Results \\*so far\\*\n\n"
        "Some **text**.\n\n"
        "| run | F1 |\n| --- | ---: |\n| a\\|b &lt;c&gt; | 0.5123 |\n| d\\_e | - |\n\n"
        "## Curves\n\n"
        "![loss \\[nats\\]](plots/a%20curve.png)\n\n"
        "![same](plots/a%20curve.png)\n"
    )


def test_report_refuses_what_would_not_show(tmp_path):
    with pytest.raises(UsageError, match="which does not exist; save the plot before"):
        write_report(tmp_path, "t", [Section("s", [Image("a.png", "c")])])
    with pytest.raises(UsageError, match="expected an image inside"):
        write_report(tmp_path, "t", [Section("s", [Image("../a.png", "c")])])
    with pytest.raises(UsageError, match="expected 2 cells in each row of a table, got 1"):
        markdown_table(Table(["a", "b"], [[1]]))
    assert not (tmp_path / "report.md").exists()
