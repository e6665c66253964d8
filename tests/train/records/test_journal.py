"""Metrics that something else harms while a run writes them, and values that are none."""

import errno
import json
import math
import os
import signal

import pytest

from train.errors import RunFailed, UsageError
from train.records.journal import Journal
from train.records.metrics_log import MetricsWriter, curve, read_metrics


@pytest.fixture(autouse=True)
def at_once():
    """Something that blocks fails instead."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def other(path):
    path.write_bytes(b'{"step": 7}\n')


def same_size(path):
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.7"))


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda path: path.unlink(), "deleted"),
        (lambda path: os.truncate(path, 0), "emptied"),
        (lambda path: os.truncate(path, 50), "changed"),
        (other, "changed"),
        (same_size, "changed"),
    ],
    ids=["deleted", "emptied", "cut", "overwritten", "edited"],
)
@pytest.mark.parametrize("last", [False, True], ids=["and-goes-on", "and-ends"])
def test_lines_lost_under_a_run_are_said_and_written_again(tmp_path, capsys, harm, what, last):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2):
            writer.write(step, "train", {"loss": 0.5 / step})
        harm(path)
        found = path.read_bytes() if path.exists() else b""
        if not last:
            writer.write(3, "train", {"loss": 0.1})
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3][: 2 if last else 3]
    assert read_metrics(tmp_path)[0]["values"] == {"loss": 0.5}
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1
    assert f"metrics.jsonl was {what} while this run writes it; its {2 if last or harm is not same_size else 3}" in said
    aside = tmp_path / "metrics.jsonl.changed"
    assert (aside.read_bytes().startswith(found) and aside.name in said) if found else not aside.exists()
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == (3 if last else 4)


def test_lines_that_something_else_added_are_kept(tmp_path, capsys):
    writer = MetricsWriter(tmp_path)
    writer.write(1, "train", {"loss": 1.0})
    MetricsWriter(tmp_path).write(2, "test", {"loss": 2.0})
    writer.write(3, "train", {"loss": 3.0})
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]
    assert "has 1 more lines than this run wrote; they are kept" in capsys.readouterr().err


class Log:
    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


def test_the_first_error_is_the_one_that_is_raised(tmp_path, capsys):
    writer, log = MetricsWriter(tmp_path), Log()
    writer.also.append(log)
    (tmp_path / "metrics.csv").mkdir()

    def fail(error):
        with writer:
            raise error

    with pytest.raises(KeyError, match="first"):
        fail(KeyError("first"))
    assert "warning: cannot write" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"cannot write .*metrics\.csv"):
        writer.close()
    assert log.closed == 2


def test_a_full_disk_keeps_its_words(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "lines")
    journal.add(b"1\n")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(os, "truncate", lambda *_: full())  # which fails as well
    with pytest.raises(RunFailed, match=r"cannot write .*lines \(No space left on device\); make room"):
        journal.add(b"2\n")


@pytest.mark.parametrize(
    "values",
    [{"a": "text"}, {"a": [1.0]}, {"a": {"b": 1}}, {"a": 10**400}, {"a": b"x"}, {"a": 1j}],
    ids=str,
)
def test_only_numbers_are_written(tmp_path, values):
    writer = MetricsWriter(tmp_path)
    with pytest.raises(UsageError, match="expected"):
        writer.write(1, "train", values)
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("step", [1.5, True, -1, "1", None, 2**64])
def test_a_step_counts(tmp_path, step):
    with pytest.raises(UsageError, match=r"cannot write metrics .* expected (a )?step"):
        MetricsWriter(tmp_path).write(step, "train", {})


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1, "split": "a", "values": {"loss": "high"}}',
        '{"step": 1, "split": "a", "values": {"loss": [1]}}',
        '{"step": 1, "split": "a", "values": {"loss": {"x": 1}}}',
        '{"step": 1, "split": "a", "values": {"loss": ' + "1" * 400 + "}}",
        '{"step": 1, "split": "a", "values": {"loss": ' + "1" * 5000 + "}}",
        '{"step": 1, "split": "a", "values": [1]}',
        '{"step": 1, "split": "a", "values": null}',
        '{"step": 1, "split": ["a"], "values": {}}',
        '{"step": 1e400, "split": "a", "values": {}}',
        '{"step": NaN, "split": "a", "values": {}}',
        '{"step": true, "split": "a", "values": {}}',
        '{"step": -1, "split": "a", "values": {}}',
        '{"step": 1.5, "split": "a", "values": {}}',
        '{"step": "1", "split": "a", "values": {}}',
        '{"step": 1, "split": "a", "values": {"loss": ' + "[" * 200 + "]" * 200 + "}}",
        "[" * 100_000,
        "",
        "\xff",
        "null",
        "\ufeff{}",
    ],
    ids=lambda line: ascii(line[:50]),
)
def test_an_odd_line_is_named(tmp_path, line):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, "train", {"loss": 0.5})
    (tmp_path / "metrics.jsonl").write_bytes(
        (tmp_path / "metrics.jsonl").read_bytes() + line.encode("latin-1", "ignore") + b"\n"
    )
    for act in (lambda: read_metrics(tmp_path), lambda: MetricsWriter(tmp_path).truncate_after(0)):
        with pytest.raises(UsageError, match=r"line 2 of .*metrics\.jsonl is damaged; delete that line"):
            act()


def test_half_a_surrogate_is_read_as_it_was_written(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, "a\ud800", {"b\udfff": math.nan})
    (record,) = read_metrics(tmp_path)
    assert record["split"] == "a\ud800"
    assert curve([record], "a\ud800", "b\udfff") == ([], [])
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["split"] == "a\ud800"
    assert "a\\ud800" in (tmp_path / "metrics.csv").read_text()


def make_pipe(path):
    os.mkfifo(path)


def make_link(path):
    path.with_name("target").write_text("")
    path.symlink_to("target")


@pytest.mark.parametrize("make", [make_pipe, make_link, os.mkdir])
def test_what_is_no_plain_file_is_neither_read_nor_waited_for(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    with pytest.raises(UsageError, match=r"cannot read .*plain file"):
        MetricsWriter(tmp_path)
    with pytest.raises(UsageError, match=r"cannot read .*plain file"):
        read_metrics(tmp_path)
