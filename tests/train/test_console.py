"""Standard error that is full, closed, unread or missing: messages are lost, but not the run."""

import ast
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.train.support.resumable import STEPS, At, plain_iterator, run
from train.console import say, unheard, warn
from train.records.progress import Progress

ROOT = Path(__file__).parents[2]


class Broken:
    """A stream that takes nothing."""

    def __init__(self, error, tty):
        self.error, self.tty, self.asked = error, tty, 0

    def write(self, text):
        self.asked += 1
        raise self.error

    def flush(self):
        raise self.error

    def isatty(self):
        return self.tty

    encoding = "utf-8"

    def fileno(self):
        return 2


ERRORS = {
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "unread": BrokenPipeError(errno.EPIPE, "Broken pipe"),
    "hung up": OSError(errno.EIO, "Input/output error"),
    "closed": ValueError("I/O operation on closed file"),
    "within a handler": RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>"),
}


@pytest.fixture(params=[*ERRORS, "none"])
def broken(request):
    """Standard error that takes nothing, in every way; put there in the test, as pytest puts its own before."""
    return None if request.param == "none" else Broken(ERRORS[request.param], tty=False)


def test_what_cannot_be_said_is_lost(broken, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr", broken)
    say("something")
    warn("something")
    with unheard():
        raise OSError
    if broken is not None:
        assert broken.asked == 2
    assert capsys.readouterr().out == ""  # where `print` writes if its file is None


def test_a_line_is_written_at_once(capsys):
    say("one")
    warn("two")
    assert capsys.readouterr().err == "one\nwarning: two\n"


@pytest.mark.parametrize("tty", [True, False])
@pytest.mark.parametrize("error", ERRORS)
def test_progress_that_cannot_be_shown(error, tty):
    stream = Broken(ERRORS[error], tty)
    with Progress(3, label="pretrain", stream=stream, interval=0) as progress:
        for step in range(1, 4):
            progress.update(step, {"loss": 1.0})
    assert stream.asked > 0


def test_progress_that_breaks_in_the_middle():
    """A terminal that hangs up after the bar was drawn."""
    stream = Broken(ERRORS["hung up"], tty=True)
    stream.write = stream.flush = lambda *_: None
    with Progress(3, stream=stream) as progress:
        progress.update(1)
        del stream.write, stream.flush
        progress.update(2, {"loss": 1.0})
        progress.update(3)


def values(state):
    return jax.device_get((state.params, state.opt_state, state.ema, state.step))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return values(run(tmp_path_factory.mktemp("whole"), plain_iterator)[0])


def test_a_training_is_the_same_unheard(broken, whole, tmp_path, monkeypatch):
    """Progress, an interruption and a damaged checkpoint, none of which can be said."""
    monkeypatch.setattr("sys.stderr", broken)
    with pytest.raises(SystemExit) as end:
        run(tmp_path, plain_iterator, hooks=(At(9, lambda: os.kill(os.getpid(), signal.SIGTERM)),))
    assert end.value.code == 143
    (tmp_path / "checkpoints" / "10" / "manifest.json").write_text("{}")
    state, _ = run(tmp_path, plain_iterator)
    assert int(state.step) == STEPS
    jax.tree.map(np.testing.assert_array_equal, values(state), whole)
    assert broken is None or broken.asked >= 5


PLACES = {"full": "2>/dev/full", "closed": "2>&-", "all closed": "<&- >&- 2>&-", "unread": "2> >(true)"}
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from tests.train.support.resumable import At, plain_iterator, run
from train.console import warn
time.sleep(0.2)  # the reader of a pipe is gone by then
hooks = (At(7, lambda: warn("seven" * 2000)), At(9, lambda: os.kill(os.getpid(), signal.SIGTERM)))
where = os.readlink("/proc/self/fd/2")
run(Path(sys.argv[1]), plain_iterator, hooks=hooks if sys.argv[2] == "interrupted" else ())
assert os.readlink("/proc/self/fd/2") == where
assert where.startswith(("/dev/", "pipe:")), where
"""


@pytest.mark.faults
@pytest.mark.parametrize("place", PLACES)
def test_a_process_whose_standard_error_is_broken(tmp_path, whole, place):
    for mode, code in [("interrupted", 143), ("whole", 0)]:
        line = f'"$0" -c "$1" "$2" {mode} {PLACES[place]}'
        command = ["bash", "-c", line, sys.executable, SCRIPT, str(tmp_path / "run")]
        done = subprocess.run(command, cwd=ROOT, timeout=120)
        assert done.returncode == code, mode
    state, _ = run(tmp_path / "run", plain_iterator)
    jax.tree.map(np.testing.assert_array_equal, values(state), whole)


def cli(place, *options, pipe=""):
    line = f'set -o pipefail; "$0" -m experiments.toy_classifier "$@" {place} {pipe}'
    command = ["bash", "-c", line, sys.executable, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("place", "code"),
    [*[(place, 0) for place in PLACES.values()], (">&-", 0), (">/dev/full", 1), ("> >(true)", 1)],
)
def test_an_experiment_whose_output_is_broken(tmp_path, place, code):
    """The run continues to its end; only a table that could not be printed makes it a failure."""
    done = cli(place, "--fast-dev-run", "--seeds", "1", "--workdir", str(tmp_path / "run"))
    assert done.returncode == code, done.stderr
    assert (tmp_path / "run" / "report.md").exists()
    assert "Traceback" not in done.stderr
    if place == ">/dev/full":
        assert done.stderr.endswith(
            "error: cannot print (No space left on device); run the same command again with another standard output\n"
        )


@pytest.mark.faults
@pytest.mark.parametrize(("place", "code"), [("2>/dev/full", 2), ("2>&-", 2), ("2> >(true)", 2)])
def test_a_mistake_that_cannot_be_explained_keeps_its_code(place, code):
    assert cli(place, "--no-such-option").returncode == code


def test_nothing_else_writes_to_standard_error():
    """Nor prints at all in `train`, where a stream that takes nothing would end the run."""
    for path in [*(ROOT / "train").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        if path.name not in ("console.py", "progress.py"):
            assert "sys.stderr" not in text, path
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        printing = any(getattr(call.func, "id", "") == "print" for call in calls)
        assert not printing or path.name == "console.py" or path.is_relative_to(ROOT / "experiments"), path
