"""Nothing in the sources runs what it reads, and no name or value can leave its place in a folder or a report."""

import ast
import csv
import html
import json
import os
import re
import stat
import unicodedata
from pathlib import Path

import jax
import pytest

from experiments import study
from experiments.data.load import make_builder
from tests.test_architecture import FILES, RUNS_CODE, SOURCES, imported, rooms_of
from train.devices.compilation_cache import enable_compilation_cache, private_folder
from train.errors import UsageError
from train.files import child_path
from train.records.metrics_log import MetricsWriter, curve, read_metrics
from train.records.report import Image, Section, Table, escape_csv, markdown_table, write_report
from train.records.tensorboard import TensorBoard

ROOT = Path(__file__).parents[1]
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "ruamel"}
"""What reads objects, and YAML, which nothing here has a need for."""
NAMES = {"eval", "exec", "compile"}
CALLS = {"os.system", "os.popen", "tempfile.mktemp", "subprocess.getoutput", "subprocess.getstatusoutput"}
LOADERS = {"read_pickle", "to_pickle", "unsafe_load", "full_load", "literal_load"}
FLAGS = {"allow_pickle": False, "shell": False, "weights_only": True}
"""Keyword arguments that may have this value only."""


def dangers(path, text=None):
    """What a source file does that could run what it reads."""
    text = (ROOT / path).read_text() if text is None else text
    found = {f"import {room}" for room in rooms_of(imported(path, text)) & MODULES}
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.rsplit(".", 1)[-1]
        wrong = [
            keyword.arg
            for keyword in node.keywords
            if keyword.arg in FLAGS
            and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is FLAGS[keyword.arg])
        ]
        if name in NAMES | CALLS or last in LOADERS or wrong:
            found.add(f"{name}({', '.join(wrong)})")
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_source_runs_what_it_reads(path):
    assert dangers(path) == ({"exec()", "compile()"} if path == RUNS_CODE else set())


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "def f():\n    from yaml import safe_load",
        "__import__('marshal')",
        "importlib.import_module('dill')",
        "eval('1')",
        "exec(x)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "subprocess.run('ls', shell=True)",
        "os.system('ls')",
        "pandas.read_pickle(f)",
        "torch.load(f, weights_only=False)",
    ],
)
def test_the_search_finds_what_it_looks_for(text):
    assert dangers(Path("train/x.py"), text)


HTML = re.compile(r"<\s*/?\s*(?:html|body|script|table|div|span|a|img|iframe)\b[^>]*>", re.IGNORECASE)


WRITES_HTML = Path("experiments/study/overview.py")
"""The page of all studies: tests/experiments/test_pages.py holds that it escapes whatever it is given."""


@pytest.mark.parametrize("path", [path for path in SOURCES if path != WRITES_HTML], ids=str)
def test_no_source_writes_html(path):
    """Reports are Markdown with escaped cells (see below); code that adds HTML must escape it and be listed here."""
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [text for text in texts if HTML.search(text)]


HOSTILE_NAMES = [
    "",
    ".",
    "..",
    "../up",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "C:x",
    ".hidden",
    "a\nb",
    "a\x00b",
    "\x1b[2J",
    "\u202eabc",
    "\ud800",
    "x" * 300,
    "é" * 150,
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_no_name_leaves_its_folder(tmp_path, name):
    with pytest.raises(UsageError, match="expected a plain name"):
        child_path(tmp_path, name)
    run = study.Run("name", "", study.StudyConfig(), tmp_path, "", None)
    assert run.folder(method=name).path.parent == tmp_path / "runs"  # whatever a setting is


@pytest.mark.parametrize("name", ["seed-0", "SimCLR-0", "random-he_normal-9", "a b", "-x", "été", "100%"])
def test_plain_names_stay_as_they_are(tmp_path, name):
    assert child_path(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", "a\x00b", "file:///etc/passwd", "http://x/y"]
)
def test_no_data_set_name_is_a_path(tmp_path, name):
    with pytest.raises(UsageError):
        make_builder(name, tmp_path / "data")
    assert not list(tmp_path.rglob("*passwd*"))


HOSTILE_TEXTS = [
    '=HYPERLINK("http://evil","x")',
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    " =1",
    "\r=1",
    "<script>alert(1)</script>",
    "a|b",
    'a\nb,c"d',
    "[x](javascript:alert(1))",
    "`code`",
    "\\|x",
    "\u2028line\x85x",
    "\ufeff=1",
    "\u200b=1",
    "\u2066\u00ad\u034f=1",
    "\U000e0001=1",
    "\ufe0f=1",
    "\u3164=1",
    "\x01=1",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff20SUM(1)",
    "\ufe66",
    "\ufe62\ufe63",
    "\u207a1",
    "\u22121",
    "\u20101",
    "\ufeff\uff1d1",
    "\u3000\uff1d1",
    "\ufeffloss",
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_a_csv_cell_is_no_formula(tmp_path, text):
    assert escape_csv(text)[0] not in "=+-@\t\r\n"
    seen = [c for c in escape_csv(text) if unicodedata.category(c)[0] not in "CZM" and c != "\u3164"]
    assert unicodedata.normalize("NFKC", seen[0])[0] not in "=+-@\u2212\u2010"
    assert escape_csv(text)[0] == seen[0]  # or a program that drops what is not seen would drop the quote's effect too
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, text, {text: -1.5, "loss": 2.0})
        writer.write(2, "train", {"loss": -2.0})
    # What a program reads is exact ...
    assert read_metrics(tmp_path)[0] == {"step": 1, "split": text, "values": {text: -1.5, "loss": 2.0}}
    assert curve(read_metrics(tmp_path), text, text) == ([1], [-1.5])
    writer.truncate_after(1)
    assert len(read_metrics(tmp_path)) == 1
    # ... and what a spreadsheet opens is no formula, but numbers are numbers.
    with open(tmp_path / "metrics.csv", newline="") as file:
        header, first, second = csv.reader(file)
    assert [escape_csv(text) in row for row in (header, first, second)] == [True, True, False]
    assert "-1.5" in first
    assert "-2.0" in second


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_a_report_shows_text_and_runs_none(tmp_path, text):
    table = Table([text, "b"], [[text, 1.0]])
    lines = markdown_table(table).splitlines()
    assert len(lines) == 3
    for line in (lines[0], lines[2]):
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3  # the bars of two columns and no other
    (tmp_path / "x.png").write_bytes(b"")
    report = write_report(tmp_path, text, [Section(text, [table, Image("x.png", text)])]).read_text()
    assert "<" not in report
    assert not re.search(r"(?<!\\)\]\(javascript", report)
    assert len([line for line in report.splitlines() if line.startswith("#")]) == 2
    # Escaping hides nothing: taken back, the words are there.
    plain = html.unescape(re.sub(r"\\([\\`*_\[\]|~#])", r"\1", report))
    assert " ".join(text.split()) in plain


def test_a_split_of_tensorboard_is_no_path(tmp_path):
    log = TensorBoard(tmp_path / "logs")
    with pytest.raises(UsageError, match="plain name"):
        log.write(1, "../elsewhere", {"loss": 1.0})
    assert not (tmp_path / "elsewhere").exists()


def test_a_summary_is_plain_json(tmp_path):
    from train.records.workdir import write_summary

    text = "</script>\u2028\ud800"
    path = write_summary(tmp_path, {"name": text})
    assert json.loads(path.read_text()) == {"name": text}


def others_write(folder):
    folder.mkdir()
    folder.chmod(0o770)


def others_own(folder):
    folder.mkdir(0o700)
    os.chown(folder, 12345, 12345)


def link_of_others(folder):
    folder.with_name("target").mkdir(0o700)
    folder.symlink_to("target")


def can_be_renamed(folder):
    folder.mkdir(0o700)
    folder.parent.chmod(0o777)


MADE_FIRST = [others_write, link_of_others, can_be_renamed, others_own]


@pytest.mark.parametrize("make", MADE_FIRST)
def test_no_program_is_taken_from_a_folder_that_others_can_write_to(tmp_path, monkeypatch, capsys, make):
    if make is others_own and os.geteuid() != 0:
        pytest.skip("only root gives folders away")
    folder = tmp_path / "lossfns" / "compiled" / "machine"
    folder.parent.mkdir(parents=True)
    make(folder)
    with pytest.raises(UsageError, match=r"expected .* as a folder of this user alone, but it .*; delete it"):
        private_folder(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("train.devices.compilation_cache._machine", lambda: "machine")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        assert enable_compilation_cache() is None
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert "warning: compiled programs are not kept: expected " in capsys.readouterr().err


def test_a_private_folder_is_this_users_alone(tmp_path):
    before = os.umask(0)
    try:
        made = private_folder(tmp_path / "a")
        (tmp_path / "b").mkdir(0o755)
        for folder in (made, private_folder(tmp_path / "b"), private_folder(made / "c" / "d")):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        os.umask(before)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="File exists"):
        private_folder(tmp_path / "file")


def test_the_tests_take_compiled_programs_from_such_a_folder():
    found = os.lstat(jax.config.jax_compilation_cache_dir)
    assert stat.S_ISDIR(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, os.geteuid())
