"""One writer for a folder: refused by name, released with the process, and nothing left to stand in the way."""

import errno
import fcntl
import json
import os
import socket

import pytest

from train import lock
from train.errors import UsageError
from train.identity import fingerprint
from train.lock import lock_folder, unlock_all, unlock_folder
from train.logging import close_workdir, open_workdir


@pytest.fixture(autouse=True)
def nothing_held():
    unlock_all()
    yield
    unlock_all()


def another_has_it(folder, text):
    """The system's lock as another process has it: by an open file of its own."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.pwrite(descriptor, text.encode(), 0)
    return descriptor


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ('{"host": "a", "pid": 7, "start": "2026-01-02T03:04:05Z"}', "process 7 on a, since 2026-01-02T03:04:05Z;"),
        ("", "a process that has not said its name;"),
    ],
)
def test_a_second_writer_is_refused(tmp_path, text, owner):
    other = another_has_it(tmp_path, text)
    with pytest.raises(UsageError, match=f"another run is writing to .*: {owner}"):
        lock_folder(tmp_path)
    with pytest.raises(UsageError, match="another run is writing to"):
        open_workdir(tmp_path, {})
    assert not (tmp_path / "config.json").exists()
    os.close(other)  # as its end would: the text stays, and is no obstacle
    open_workdir(tmp_path, {})
    told = json.loads((tmp_path / ".lock").read_text())
    assert (told["host"], told["pid"]) == (socket.gethostname(), os.getpid())
    with pytest.raises(BlockingIOError):
        another_has_it(tmp_path, "")
    close_workdir(tmp_path)
    assert (tmp_path / ".lock").read_text() == ""
    os.close(another_has_it(tmp_path, ""))


def test_a_process_may_lock_again_and_releases_last(tmp_path):
    lock_folder(tmp_path)
    lock_folder(tmp_path)
    lock_folder(tmp_path, "checkpointer")
    unlock_folder(tmp_path)
    with pytest.raises(BlockingIOError):
        another_has_it(tmp_path, "")
    unlock_folder(tmp_path, "checkpointer")
    os.close(another_has_it(tmp_path, ""))


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def none(descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_flock", none)
    lock_folder(tmp_path)
    assert "has no locks (No locks available); nothing would keep a second run" in capsys.readouterr().err


def test_allowed_changes_are_recorded(tmp_path, capsys):
    open_workdir(tmp_path, {"seed": 0, "data": {"name": "a"}})
    (tmp_path / "metrics.jsonl").write_text("")  # or nothing has been done yet that could be mixed
    open_workdir(tmp_path, {"seed": 1, "data": {"name": "b"}}, allow_changed=["seed", "data"])
    assert "goes on with seed changed from 0 to 1" in capsys.readouterr().err
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1
    (line,) = (tmp_path / "config_changes.jsonl").read_text().splitlines()
    assert json.loads(line)["changed"] == {"seed": [0, 1], "data.name": ["a", "b"]}


def test_fingerprints_tell_values_shapes_dtypes_and_names_apart():
    data = [{"x": [1, 2]}, {"x": [2, 1]}, {"y": [1, 2]}, {"x": [[1, 2]]}, {"x": [1.0, 2.0]}, {"x": "12"}, {"x": b"12"}]
    assert len({fingerprint(d) for d in data}) == len(data)
    assert len({fingerprint(None), fingerprint([])}) == 2
