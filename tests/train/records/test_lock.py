"""One writer for a folder: refused by name, released with the process, and nothing left to stand in the way."""

import errno
import fcntl
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from train.errors import RunFailed, UsageError
from train.records import lock
from train.records.checkpoint import Checkpointer
from train.records.fingerprint import fingerprint
from train.records.lock import check_lock, is_locked, lock_folder, unlock_all, unlock_folder
from train.records.metrics_log import MetricsWriter
from train.records.workdir import close_workdir, open_workdir


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
        ("", "an unknown process;"),
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


def replace(path):
    path.rename(path.with_name("moved"))
    path.write_text("")


SECOND = """
import sys
from train import UsageError, open_workdir
for folder in sys.argv[1:]:
    try:
        open_workdir(folder, {})
        print("opened")
    except UsageError as error:
        print(error)
"""


def test_a_lock_file_that_is_deleted_or_replaced_lets_nobody_in(tmp_path):
    """The lock is on the folder itself; the second run is a process of its own."""
    harms = {"whole": lambda path: None, "deleted": Path.unlink, "replaced": replace}
    for name, harm in harms.items():
        open_workdir(tmp_path / name, {})
        harm(tmp_path / name / ".lock")
    (tmp_path / "free").mkdir()
    folders = [str(tmp_path / name) for name in [*harms, "free"]]
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", SECOND, *folders]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=100)
    *refused, opened = done.stdout.splitlines()
    assert [line.split(": ")[0] for line in refused] == [f"another run is writing to {f}" for f in folders[:-1]]
    assert opened == "opened"


@pytest.mark.parametrize("harm", [Path.unlink, replace])
def test_where_only_the_file_can_be_locked_its_loss_ends_the_run(tmp_path, monkeypatch, harm):
    """As on NFS, which locks no folders."""
    flock = lock._flock

    def files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor)

    monkeypatch.setattr(lock, "_flock", files_only)
    lock_folder(tmp_path)
    with pytest.raises(BlockingIOError):
        another_has_it(tmp_path, "")
    writer = MetricsWriter(tmp_path)
    writer.write(1, "train", {})
    harm(tmp_path / ".lock")
    with pytest.raises(
        RunFailed, match=r"\.lock was deleted or replaced while this run writes .* nothing more is written"
    ):
        writer.write(2, "train", {})
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("way", ["moved", "deleted", "link"])
def test_a_folder_that_is_replaced_under_a_run_ends_it(tmp_path, way):
    folder = tmp_path / "run"
    if way == "link":
        (tmp_path / "first").mkdir()
        folder.symlink_to("first")
    open_workdir(folder, {})
    writer, checkpointer = MetricsWriter(folder), Checkpointer(folder / "checkpoints")
    writer.write(1, "train", {})
    if way == "moved":
        folder.rename(tmp_path / "elsewhere")
    elif way == "deleted":
        shutil.rmtree(folder)
    else:
        folder.unlink()
    folder.mkdir()
    for act in (
        lambda: writer.write(2, "train", {}),
        lambda: writer.truncate_after(0),
        lambda: checkpointer.save(1, {}),
    ):
        with pytest.raises(RunFailed, match=r"run was moved, deleted or replaced .* nothing more is written"):
            act()
    assert os.listdir(folder) == []
    check_lock(tmp_path / "other")


def link(path, victim):
    path.symlink_to(victim)


def hard_link(path, victim):
    path.hardlink_to(victim)


def dangling(path, victim):
    path.symlink_to(victim.with_name("none"))


@pytest.mark.parametrize(
    "make", [link, hard_link, dangling, lambda path, _: os.mkfifo(path), lambda path, _: path.mkdir()]
)
def test_a_lock_file_that_leads_elsewhere_is_refused(tmp_path, make):
    victim = tmp_path / "victim"
    victim.write_text('{"host": "precious"}')
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / ".lock", victim)
    with pytest.raises(UsageError, match=r"cannot lock .*: \.lock is .*; delete it"):
        open_workdir(tmp_path / "run", {})
    assert victim.read_text() == '{"host": "precious"}'
    assert sorted(os.listdir(tmp_path)) == ["run", "victim"]
    assert os.listdir(tmp_path / "run") == [".lock"]


def test_a_file_of_that_name_that_is_no_lock_stays_as_it_is(tmp_path):
    (tmp_path / ".lock").write_text("precious")
    open_workdir(tmp_path, {})
    with pytest.raises(BlockingIOError):
        another_has_it(tmp_path, "precious")
    close_workdir(tmp_path)
    assert (tmp_path / ".lock").read_text() == "precious"


def test_a_folder_is_looked_at_when_it_is_locked(tmp_path, monkeypatch):
    """A run that began and ended between a look and the lock would be written over."""

    def meanwhile(folder):
        (tmp_path / "config.json").write_text('{"seed": 1}')
        (tmp_path / "metrics.jsonl").write_text("")
        lock_folder(folder)

    monkeypatch.setattr("train.records.workdir.lock_folder", meanwhile)
    with pytest.raises(UsageError, match="seed was 1 and is now 0"):
        open_workdir(tmp_path, {"seed": 0})
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}


def test_a_folder_that_is_refused_is_let_go(tmp_path):
    open_workdir(tmp_path, {"seed": 0})
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UsageError, match="seed was 0"):
        open_workdir(tmp_path, {"seed": 1})
    assert is_locked(tmp_path)  # it was before
    close_workdir(tmp_path)
    with pytest.raises(UsageError, match="seed was 0"):
        open_workdir(tmp_path, {"seed": 1})
    assert not is_locked(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="is not the folder of a run"):
        open_workdir(tmp_path / "other", {})
    assert os.listdir(tmp_path / "other") == ["thesis.tex"]


def test_allowed_changes_are_recorded(tmp_path, capsys):
    open_workdir(tmp_path, {"seed": 0, "data": {"name": "a"}})
    (tmp_path / "metrics.jsonl").write_text("")  # or nothing has been done yet that could be mixed
    open_workdir(tmp_path, {"seed": 1, "data": {"name": "b"}}, allow_changed=["seed", "data"])
    assert "continues with seed changed from 0 to 1" in capsys.readouterr().err
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1
    (line,) = (tmp_path / "config_changes.jsonl").read_text().splitlines()
    assert json.loads(line)["changed"] == {"seed": [0, 1], "data.name": ["a", "b"]}


def test_fingerprints_tell_values_shapes_dtypes_and_names_apart():
    data = [{"x": [1, 2]}, {"x": [2, 1]}, {"y": [1, 2]}, {"x": [[1, 2]]}, {"x": [1.0, 2.0]}, {"x": "12"}, {"x": b"12"}]
    assert len({fingerprint(d) for d in data}) == len(data)
    assert len({fingerprint(None), fingerprint([])}) == 2
