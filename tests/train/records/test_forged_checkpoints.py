"""Checkpoints that were added to, copied, moved or forged: the one before is used, and nothing blocks or is read."""

import json
import os
import shutil
import signal
import socket

import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.support.checkpoints import assert_identical, at, saved
from tests.train.support.resumable import fresh_state
from train.errors import RunFailed, UsageError
from train.hooks import EarlyStopping
from train.records.checkpoint import Checkpointer, _reason
from train.records.manifest import MANIFEST, find_damage, write_manifest


@pytest.fixture(autouse=True)
def at_once():
    """Something that blocks fails instead."""
    signal.alarm(100)
    yield
    signal.alarm(0)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Checkpoints 1, 2 and 3."""
    return saved(tmp_path_factory.mktemp("good"))


@pytest.fixture
def folder(good, tmp_path):
    shutil.copytree(good, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def listen(path):
    """A socket, by a short name, since the path of one may not be long."""
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


ADDED = {
    "file": lambda f: (f / "more").write_text(""),
    "file-below": lambda f: (f / "state" / "d" / "more").write_text(""),
    "file-in-new-folder": lambda f: ((f / "new").mkdir(), (f / "new" / "more").write_text("")),
    "hidden-file": lambda f: (f / ".more").write_text(""),
    "pipe": lambda f: os.mkfifo(f / "state" / "pipe"),
    "socket": lambda f: listen(f / "socket"),
    "link-to-file": lambda f: (f / "link").symlink_to("manifest.json"),
    "link-to-folder": lambda f: (f / "link").symlink_to(".."),
    "dangling-link": lambda f: (f / "link").symlink_to("none"),
    "pipe-for-file": lambda f: ((f / "state" / "_METADATA").unlink(), os.mkfifo(f / "state" / "_METADATA")),
    "pipe-for-list": lambda f: ((f / MANIFEST).unlink(), os.mkfifo(f / MANIFEST)),
    "link-for-file": lambda f: (
        (f / "meta" / "metadata").rename(f.parent / "x") and (f / "meta" / "metadata").symlink_to(f.parent / "x")
    ),
    "link-for-list": lambda f: (f / MANIFEST).rename(f.parent / "x") and (f / MANIFEST).symlink_to(f.parent / "x"),
    "link-for-all": lambda f: f.rename(f.with_name("y")) and f.symlink_to("y"),
    "list-of-no-files": lambda f: (f / MANIFEST).write_text("[1]"),
    "list-of-numbers": lambda f: (f / MANIFEST).write_text('{"meta/metadata": 1}'),
    "nested-list": lambda f: (f / MANIFEST).write_text("[" * 100_000),
    "list-that-leads-out": lambda f: (f / MANIFEST).write_text('{"../2/manifest.json": "0"}'),
    "empty-list": lambda f: (f / MANIFEST).write_text("{}"),
}


@pytest.mark.parametrize("name", ADDED)
def test_what_is_not_on_the_list_or_no_plain_file_is_damage(folder, capsys, name):
    ADDED[name](folder / "3")
    with Checkpointer(folder, every=1) as checkpointer:
        assert_identical(checkpointer.restore_latest(fresh_state()), at(2))
        assert "/3 is damaged (" in capsys.readouterr().err
        checkpointer.save(3, at(3))
    assert os.path.lexists(folder / "unreadable-3")
    assert find_damage(folder / "3") is None


def test_a_copy_is_no_checkpoint_of_another_step(folder, capsys):
    shutil.copytree(folder / "2", folder / "9")
    (folder / "3").rename(folder / "7")
    assert_identical(Checkpointer(folder).restore_latest(fresh_state()), at(2))
    said = capsys.readouterr().err
    assert "/9 is damaged (it is the checkpoint of step 2); trying the one before" in said
    assert "/7 is damaged (it is the checkpoint of step 3); trying the one before" in said


def rewrite(folder, change):
    """Changes the files next to the values and rewrites the list of checksums, as a forger would."""
    path = folder / "meta" / "metadata"
    meta = json.loads(path.read_text())
    changed = change(meta)
    path.write_text(changed if isinstance(changed, str) else json.dumps(meta if changed is None else changed))
    (folder / MANIFEST).unlink()
    write_manifest(folder)
    assert find_damage(folder) is None


FORMS = {
    "list": lambda meta: [],
    "number": lambda meta: 3,
    "text": lambda meta: "x",
    "nested": lambda meta: '{"a": ' + "[" * 100_000,
    "no-leaves": lambda meta: meta.pop("leaves") and None,
    "no-config": lambda meta: {name: value for name, value in meta.items() if name != "config"},
    "leaves-as-text": lambda meta: meta | {"leaves": ["a"]},
    "leaves-without-shape": lambda meta: meta | {"leaves": [{"path": "a", "dtype": "b"}]},
    "extras-as-list": lambda meta: meta | {"extras": []},
    "iterator-as-number": lambda meta: meta | {"iterator": 3},
    "step-as-text": lambda meta: meta | {"step": "x"},
    "step-of-another": lambda meta: meta | {"step": 2},
}


@pytest.mark.parametrize("name", FORMS)
def test_another_form_beside_the_values_is_damage(folder, capsys, name):
    rewrite(folder / "3", FORMS[name])
    assert_identical(Checkpointer(folder).restore_latest(fresh_state()), at(2))
    assert "/3 is damaged (" in capsys.readouterr().err


@pytest.mark.parametrize("leaf", [jnp.zeros(4), jnp.zeros((3, 1)), jnp.zeros(3, jnp.int32), jnp.zeros(3, jnp.float16)])
def test_arrays_of_another_form_than_they_say_are_not_read(folder, capsys, monkeypatch, leaf):
    import orbax.checkpoint as ocp

    shutil.rmtree(folder / "3")
    state = at(3)
    with Checkpointer(folder, every=1, keep=9) as checkpointer:
        checkpointer.restore_latest(fresh_state())
        checkpointer.save(3, state.replace(params={**state.params, "w": leaf}))

    def lie(meta):
        (entry,) = (x for x in meta["leaves"] if x["path"] == ".params['w']")
        entry["shape"], entry["dtype"] = [3], "float32"

    rewrite(folder / "3", lie)
    read = []
    restore = ocp.PyTreeCheckpointHandler.restore

    def note(self, directory, *args, **kwargs):
        read.append(str(directory))
        return restore(self, directory, *args, **kwargs)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", note)
    capsys.readouterr()
    assert_identical(Checkpointer(folder).restore_latest(fresh_state()), at(2))
    found = f"{leaf.dtype}{list(leaf.shape)}"
    assert f"/3 is damaged (.params['w'] is {found} where its list has float32[3])" in capsys.readouterr().err
    assert read == [str(folder / "2" / "state")]


def test_arrays_that_are_not_listed_are_damage(folder, capsys):
    rewrite(folder / "3", lambda meta: meta["leaves"].append({"path": ".extra", "shape": [1], "dtype": "float32"}))
    with pytest.raises(UsageError, match=r"checkpoint has \.extra, which this state does not have"):
        Checkpointer(folder).restore_latest(fresh_state())
    more = fresh_state().replace(params={**fresh_state().params, "v": jnp.zeros(1)})

    def lie(meta):
        meta["leaves"] = [x for x in meta["leaves"] if x["path"] != ".extra"]
        meta["leaves"].append({"path": ".params['v']", "shape": [1], "dtype": "float32"})

    for step in (1, 2, 3):
        rewrite(folder / str(step), lie)
    with pytest.raises(UsageError, match=r"none of the 3 .*its arrays do not match its list \(\.params\['v'\]\)"):
        Checkpointer(folder).restore_latest(more)


def test_a_state_that_an_extra_refuses_is_explained(tmp_path):
    with Checkpointer(tmp_path, extras={"stopping": EarlyStopping("loss", patience=3, every=1)}) as checkpointer:
        checkpointer.save(1, at(1))
    rewrite(tmp_path / "1", lambda meta: meta["extras"].update(stopping={"json": {"best": 1}}))
    with pytest.raises(UsageError, match=r"stopping refuses its state in the checkpoint of step 1"):
        Checkpointer(tmp_path, extras={"stopping": EarlyStopping("loss", patience=3, every=1)}).restore_latest(
            fresh_state()
        )


def test_an_unreadable_checkpoint_outlives_the_next_one(folder):
    for _ in range(2):
        (folder / "3" / MANIFEST).write_text("{")
        with Checkpointer(folder, every=1) as checkpointer:
            checkpointer.restore_latest(fresh_state())
            checkpointer.save(3, at(3))
    assert {path.name for path in folder.glob("unreadable*")} == {"unreadable-3", "unreadable-3-2"}


def test_a_pipe_beside_the_checkpoints_does_not_block(folder):
    os.mkfifo(folder / ".saving.json")
    (folder / ".deleting").symlink_to("2")
    with Checkpointer(folder, every=1, keep=2) as checkpointer:
        assert_identical(checkpointer.restore_latest(fresh_state()), at(3))
        checkpointer.save(4, at(4))
    assert find_damage(folder / "4") is None


@pytest.mark.parametrize(
    "arguments",
    [{"every": 2.5}, {"every": True}, {"every": "3"}, {"every": None}, {"every": np.float32(2)}, {"keep": 1.5}],
)
def test_counts_are_whole_numbers(tmp_path, arguments):
    with pytest.raises(UsageError, match=r"expected (every|keep) as a whole number of at least 1, got"):
        Checkpointer(tmp_path, **arguments)
    assert Checkpointer(tmp_path, every=np.int64(3)).every == 3


@pytest.mark.parametrize("directory", ["", "a\0b", "a\udcff", b"a", None, 3])
def test_a_directory_is_text_that_names_one(directory):
    with pytest.raises(UsageError, match="expected a directory for checkpoints as text in UTF-8"):
        Checkpointer(directory)


def test_a_long_path_hides_no_reason(tmp_path, monkeypatch):
    path = "x" * 1000
    assert _reason(RuntimeError(f"Error writing {path}: [OS error 28: No space left on device] more {path}")) == (
        "No space left on device"
    )
    assert "the end" in _reason(RuntimeError(f"{path} the end"))

    def fail(*_):
        raise RuntimeError(f"INTERNAL: writing {path}: No space left on device")

    monkeypatch.setattr("train.records.checkpoint.write_checkpoint", fail)
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(RunFailed, match=r"\(No space left on device\); make"):
        checkpointer.save(1, at(1))
