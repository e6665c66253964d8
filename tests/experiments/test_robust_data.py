"""Damaged, missing and unsuitable data end in one sentence and code 2; a dead worker process ends the run."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.data.bert import endless
from experiments.data.images import read_images
from experiments.data.load import DataConfig, load, make_builder, prepare, read_all, read_text_file
from experiments.data.text import read_corpus
from experiments.study import cli
from tests.experiments.dying_worker import Count
from train.errors import RunFailed, UsageError
from train.loop import fit

ROOT = Path(__file__).parents[2]


class Records:
    """Examples of which some cannot be read."""

    def __init__(self, count, broken=()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise ValueError("bad checksum\nand more")
        return {"text": b"number %d" % index}


def test_corrupt_record_names_its_index():
    with pytest.raises(
        UsageError, match=r"Record 3 of the data is damaged \(ValueError: bad checksum\); fix it, or.*skip-budget"
    ):
        read_all(Records(9, broken=[3]))
    assert len(read_all(Records(9, broken=[3]), limit=3)) == 3  # it is not read


def test_corrupt_records_within_the_budget_are_passed_over(capsys):
    rows = read_all(Records(9, broken=[3, 5]), what="verses, split train", skip_budget=2)
    assert [int(row["text"].split()[1]) for row in rows] == [0, 1, 2, 4, 6, 7, 8]
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == [
        f"warning: record {i} of verses, split train is damaged (ValueError: bad checksum); skipped" for i in (3, 5)
    ]
    message = r"Record 5 of .*, the 2 damaged so far exceed --data.skip-budget; .*--data.skip-budget 10"
    with pytest.raises(UsageError, match=message):
        read_all(Records(9, broken=[3, 5]), skip_budget=1)


def test_limits_are_checked():
    with pytest.raises(UsageError, match="Every record of the data is damaged"):
        read_all(Records(2, broken=[0, 1]), skip_budget=2)
    with pytest.raises(UsageError, match="the data is empty; take another split"):
        read_all(Records(0))
    with pytest.raises(UsageError, match="max-examples must be at least 1, but it is 0"):
        read_all(Records(2), 0)
    with pytest.raises(UsageError, match="skip-budget must be at least 0, but it is -1"):
        read_all(Records(2), skip_budget=-1)


@pytest.fixture(scope="module")
def damaged_digits(tmp_path_factory):
    """A prepared data set with four bytes turned over in the middle of a record of its test split; which one."""
    folder = tmp_path_factory.mktemp("data")
    builder = make_builder("digits", folder)
    prepare(builder, "digits")
    (file,) = builder.data_path.glob("*test*array_record*")
    content = bytearray(file.read_bytes())
    for offset in range(5000, 5004):
        content[offset] ^= 0xFF
    file.write_bytes(content)
    source, broken = load("digits", "test", data_dir=folder), []
    for index in range(len(source)):
        try:
            source[index]
        except RuntimeError:
            broken.append(index)
    assert len(broken) == 1
    return folder, broken[0], len(source)


def test_corrupt_record_in_a_file(damaged_digits, capsys):
    folder, index, count = damaged_digits
    message = (
        rf"Record {index} of digits, split test is damaged \(.*hash mismatch.*\); delete .*digits to prepare it again"
    )
    with pytest.raises(UsageError, match=message):
        read_images("digits", "test", directory=folder)
    images = read_images("digits", "test", directory=folder, skip_budget=1)
    assert len(images) == count - 1
    assert f"warning: record {index} of digits, split test" in capsys.readouterr().err
    assert len(read_images("digits", "train", directory=folder)) > count  # other files are whole


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:999])])
def test_file_that_is_gone_or_cut_short(tmp_path, harm):
    builder = make_builder("digits", tmp_path)
    prepare(builder, "digits")
    (file,) = builder.data_path.glob("*test*array_record*")
    harm(file)
    with pytest.raises(
        UsageError, match=r"Record 0 of digits, split test is damaged .*delete .*digits to prepare it again"
    ):
        read_images("digits", "test", directory=tmp_path)


def test_corrupt_line_of_a_text_file(tmp_path, capsys):
    file = tmp_path / "text.txt"
    file.write_bytes(b"\n".join(b"bad \xff\xfe line" if i in (4, 9) else b"Line %d." % i for i in range(1, 41)))
    with pytest.raises(
        UsageError, match=r"Line 4 of .*text.txt .*UTF-8.* is damaged \(UnicodeDecodeError.*skip-budget"
    ):
        read_text_file(file, "train")
    splits = {s: read_text_file(file, s, skip_budget=2) for s in ("train", "validation", "test")}
    lines = [row["text"].decode() for rows in splits.values() for row in rows]
    assert lines == [f"Line {i}." for i in range(1, 41) if i not in (4, 9)]
    assert [line.split(" of ")[0] for line in capsys.readouterr().err.splitlines()] == [
        "warning: line 4",
        "warning: line 9",
    ]
    with pytest.raises(UsageError, match=r"Line 9 of .*exceed --data.skip-budget"):
        read_text_file(file, "train", skip_budget=1)


def test_text_that_is_no_text_counts_as_damaged(monkeypatch, capsys):
    rows = [{"text": b"One."}, {"text": b"\xff"}, {"text": b"Two. Three."}]
    monkeypatch.setattr("experiments.data.text.load", lambda *args, **kwargs: rows)
    with pytest.raises(UsageError, match=r"Record 1 of lm1b, split train is damaged \(UnicodeDecodeError"):
        read_corpus(DataConfig(name="lm1b"), "train")
    corpus = read_corpus(DataConfig(name="lm1b", skip_budget=1), "train")
    assert corpus.sentences == ["One.", "Two.", "Three."]
    assert "skipped" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "batch"), [(5, 6), (0, 1), (5, 0)])
def test_fewer_examples_than_a_batch(count, batch):
    with pytest.raises(UsageError, match=f"gives {count} examples, and a batch cannot have {batch} of them"):
        endless(count, batch, 0)
    assert len(next(iter(endless(5, 5, 0)))) == 5


def leave(name, *arguments):
    """Runs an experiment by its command line; returns what it printed to stderr and its exit code."""
    study = importlib.import_module(f"experiments.{name}")
    with pytest.raises(SystemExit) as stop:
        cli.run(study.main, study.Config, study.__doc__, ["--fast-dev-run", *arguments])
    return stop.value.code


TEXT = ["--data.tokenizer", "bytes", "--data.path", "text.txt"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("causal_lm", ["--data.name", "bible_wb"], "There is no data set 'bible_wb' (did you mean bible_web"),
        (
            "causal_lm",
            [*TEXT, "--data.text-feature", "verse"],
            "The data has no text feature 'verse'; its features are",
        ),
        ("causal_lm", [*TEXT, "--data.max-examples", "0"], "--data.max-examples must be at least 1"),
        ("causal_lm", [*TEXT, "--batch-size", "1000000"], "a batch cannot have 1000000 of them"),
        ("causal_lm", ["--data.path", "none.txt"], "There is no text file 'none.txt'"),
        ("causal_lm", [*TEXT, "--steps", "many"], "--steps"),
        ("causal_lm", [*TEXT, "--sedd", "1"], "--seed"),
        ("causal_lm", [*TEXT, "--profile", "0", "3"], "expected a first and a last step to profile"),
        ("simclr", ["--data.name", "nothing"], "There is no data set 'nothing'"),
        ("simclr", ["--data.name", "digits", "--batch-size", "100000"], "a batch cannot have 100000 of them"),
    ],
)
def test_mistake_ends_in_one_sentence_and_code_2(tmp_path, monkeypatch, capsys, name, arguments, message):
    (tmp_path / "text.txt").write_text("".join(f"This is line {i}.\n\n" for i in range(300)))
    monkeypatch.chdir(tmp_path)
    assert leave(name, *arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err + printed.out
    assert "Traceback" not in printed.err
    if not message.startswith(("--steps", "--seed")):  # the parser's own words
        assert len([line for line in printed.err.splitlines() if line.startswith("error: ")]) == 1


def test_a_killed_worker_ends_the_run_within_ten_seconds():
    module = "tests.experiments.dying_worker"
    done = subprocess.run([sys.executable, "-m", module], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1, done.stderr
    seconds, sentence = done.stdout.strip().split(" ", 1)
    assert float(seconds) < 10
    assert "a process that prepares the data died before step" in sentence
    assert "exit code -9" in sentence
    assert "run the same command again" in sentence


def test_other_errors_of_the_data_keep_their_trace():
    def broken():
        yield 1
        raise RuntimeError("a bug in the pipeline")

    def step(state, batch):
        return Count(state.step + 1), {"loss": (1.0, 1.0)}

    with pytest.raises(RuntimeError, match="a bug in the pipeline") as caught:
        fit(Count(0), step, broken(), steps=3, progress=False)
    assert not isinstance(caught.value, RunFailed)


@pytest.mark.parametrize(
    "harm",
    [
        lambda info: info.unlink(),
        lambda info: info.write_bytes(b""),
        lambda info: info.write_bytes(b"\xff{"),
        lambda info: info.write_text("[" * 100_000),
        lambda info: (info.unlink(), info.mkdir()),
    ],
    ids=["gone", "empty", "no-text", "nested", "folder"],
)
def test_a_prepared_set_whose_description_is_damaged(damaged_digits, tmp_path, harm):
    prepared = tmp_path / "digits" / "1.0.0"
    prepared.mkdir(parents=True)
    (source,) = (damaged_digits[0] / "digits").glob("*/dataset_info.json")
    (prepared / source.name).write_bytes(source.read_bytes())
    harm(prepared / source.name)
    with pytest.raises(UsageError, match=r"the prepared copy of digits .*; delete .*digits to prepare it again"):
        load("digits", "test", data_dir=tmp_path)


def test_a_folder_of_prepared_data_that_is_none():
    for folder in ("a\0b", "a\udcff", "~nobody-has-this-name/x"):
        with pytest.raises(UsageError, match="give another"):
            load("digits", "test", data_dir=folder)
