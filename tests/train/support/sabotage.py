"""Runs that are killed or sabotaged, each in its own process: `python -m tests.train.support.sabotage PLAN RESULT`.

The plan, a file in JSON, is a list of attempts at runs, made one after the other; `attempt` says what can be done to
one. The result is a list of exit codes and of what was said on stderr. The imports are made once and the attempts
forked from them.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint  # noqa: F401  (here rather than in every attempt)

from tests.train.support import resumable
from train.errors import RunFailed, UsageError
from train.parallel import data_parallel
from train.records.checkpoint import Checkpointer
from train.records.workdir import open_workdir

CONFIG = {"seed": 0, "batch_size": 8, "data": {"name": "numbers"}}


def attempt(folder: str, **sabotage: Any) -> None:
    """Starts the run in a folder, or resumes it.

    Args:
        folder: Folder of the run. Next to it are written `FOLDER.order`, the rows of each batch drawn, and at the end
            of the run `FOLDER.end`, the digests of its final state.
        sabotage: kill: one of `POINTS`, or the number of a file operation; at: the step at which that happens;
            sigterm, full, full_at_manifest, readonly: a step; clock: a step from which on the clock is a day behind;
            hold: a step at which it waits to be killed. config, data, dtype, x64, devices: values that differ from the
            start; allow: the differences to allow.
    """
    jax.config.update("jax_num_cpu_devices", sabotage.get("devices", 1))
    jax.config.update("jax_enable_x64", sabotage.get("x64", False))
    iterator = _Recorded(Path(folder + ".order"), sabotage.get("sigterm"))
    step: Any = resumable.STEP
    if "devices" in sabotage:
        step = data_parallel(resumable.STEP_BODY)  # the global view: the same random numbers on any number of devices
    if sabotage.get("kill") == "mid-step":
        step = _killed_after_call(step, iterator, sabotage["at"])
    events = _Events(Path(folder), iterator, sabotage.get("kill"), sabotage.get("at"))
    sys.addaudithook(events)
    for name, action in (("full", _fill), ("full_at_manifest", _fill_at_fsync), ("readonly", _make_readonly)):
        if name in sabotage:
            _before_save(sabotage[name], action)
    hooks: tuple[Any, ...] = ()
    if "clock" in sabotage:
        hooks += (resumable.At(sabotage["clock"], _set_clock_back),)
    if "hold" in sabotage:
        hooks += (resumable.At(sabotage["hold"], lambda: _hold(Path(folder + ".held"))),)

    def make_state(key: int = 5) -> Any:
        state = resumable.fresh_state(key)
        state = state.replace(frozen=jnp.asarray(np.random.default_rng(0).normal(size=100_000), jnp.float32))
        if "dtype" in sabotage:
            state = state.replace(params={**state.params, "w": state.params["w"].astype(sabotage["dtype"])})
        return state

    allowed = sabotage.get("allow", [])
    workdir = open_workdir(folder, CONFIG | sabotage.get("config", {}), allow_changed=allowed)
    options = {"keep": 2, "data": sabotage.get("data", "a"), "allow_changed": allowed}
    state, _ = resumable.run(workdir, lambda: iterator, hooks=hooks, step=step, make_state=make_state, **options)
    Path(folder + ".end").write_text(json.dumps(_digests(state)))
    Path(folder + ".events").write_text(str(events.count))


class _Recorded(resumable.ArrayIterator):
    """Notes each batch in a file as it is drawn, and sends this process SIGTERM with the batch of step `sigterm`."""

    def __init__(self, path: Path, sigterm: int | None) -> None:
        super().__init__(*resumable.arrays(), size=8)
        self.path, self.sigterm = path, sigterm

    def __next__(self) -> dict[str, np.ndarray]:
        batch = super().__next__()
        with open(self.path, "a") as file:
            file.write(json.dumps([self.position, self.seen[-1]]) + "\n")
        if self.position == self.sigterm:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch


def _digests(state: Any) -> dict[str, str]:
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        is_key = hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        name = jax.tree_util.keystr(path)
        found[name] = f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
        if array.dtype.kind == "f" and array.size < 10:
            found[name + " values"] = array.astype(float).tolist()
    return found


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _killed_after_call(step: Any, iterator: Any, at: int) -> Callable[[Any, Any], Any]:
    """A step that is under way, or just done, when the process is killed."""

    def killed(state: Any, batch: Any) -> Any:
        result = step(state, batch)
        if iterator.position == at:
            _die()
        return result

    return killed


class _Events:
    """Counts the operations on files in the run's folder as Python announces them, before they are done, and kills.

    The points, all in the save of step `at`: "mid-save": some files of the checkpoint are written; "before-rename": all
    are; "before-manifest": the folder has its name, but no list of checksums; "mid-manifest": the list has not its name
    yet; "after-manifest": the note that step `at` is being saved is still there; "before-delete": the checkpoint before
    the last is to go; "mid-delete": half of it is gone. "mid-log": half a line of metrics is written.
    """

    NAMES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.listdir", "os.scandir")

    def __init__(self, folder: Path, iterator: Any, kill: str | int | None, at: int | None) -> None:
        self.folder, self.iterator, self.kill, self.at = str(folder.absolute()), iterator, kill, at
        self.count = self.temporary = self.removed = 0
        self.deleting = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in self.NAMES:
            return
        paths = [path for a in args if isinstance(a, str | os.PathLike) and (path := os.fspath(a)).startswith("/")]
        if event == "shutil.rmtree" and paths:
            self.deleting = paths[0].endswith("/.deleting")
            self.removed = 0
        self.removed += self.deleting and event in ("os.remove", "os.rmdir")
        if not any(path.startswith(self.folder + "/") for path in paths) and not self.deleting:
            return
        self.count += 1
        if self.kill == self.count:
            _die()
        if isinstance(self.kill, str) and self.iterator.position == self.at:
            self._at_point(event, args, paths or [""])

    def _at_point(self, event: str, args: tuple[Any, ...], paths: list[str]) -> None:
        first, last = paths[0], paths[-1]
        checkpoint = f"{self.folder}/checkpoints/{self.at}"
        self.temporary += first.startswith(f"{checkpoint}.orbax-checkpoint-tmp")
        appends = event == "open" and first.endswith("metrics.jsonl") and str(args[1]).startswith("a")
        if self.kill == "mid-log" and appends:
            os.write(os.open(first, os.O_WRONLY | os.O_APPEND), b'{"step": ')
        points = {
            "mid-log": appends,
            "mid-save": self.temporary == 4,
            "before-rename": event == "os.rename" and last == checkpoint,
            "before-manifest": event == "open" and f"{checkpoint}/.manifest.json" in first,
            "mid-manifest": event == "os.rename" and last == f"{checkpoint}/manifest.json",
            "after-manifest": event == "os.remove" and first.endswith(".saving.json"),
            "before-delete": event == "os.rename" and "/.deleting/" in last,
            "mid-delete": self.removed == 3,
        }
        if points.get(str(self.kill)):
            _die()


POINTS = (
    "mid-step", "mid-log", "mid-save", "before-rename", "before-manifest", "mid-manifest", "after-manifest",
    "before-delete", "mid-delete",
)  # fmt: skip


def _before_save(step: int, action: Callable[[Path], None]) -> None:
    save = Checkpointer.save

    def sabotaged(self: Checkpointer, number: int, state: Any) -> None:
        if number == step:
            action(self.directory)
        save(self, number, state)

    Checkpointer.save = sabotaged  # type: ignore[method-assign]


def _fill(directory: Path) -> None:
    """As a full disk: no file may grow beyond 100 kB (the array that the run saves has 400 kB)."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def _fill_at_fsync(directory: Path) -> None:
    """As a disk that turns out to be full when a new checkpoint, all of it written, is to reach it."""
    sync = os.fsync

    def full(descriptor: int) -> None:
        if f"{directory}/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            names = os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), directory).split("/")
            if names[0].isdecimal():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    os.fsync = full


def _make_readonly(directory: Path) -> None:
    directory.chmod(0o555)
    if (
        os.geteuid() == 0
    ):  # to whom the mode of a folder means nothing: give up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        libc = ctypes.CDLL(None, use_errno=True)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        assert libc.capget(header, sets) == 0
        for low in (0, 1):
            sets[low] &= ~0b110
        assert libc.capset(header, sets) == 0


def _set_clock_back() -> None:
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() - 86_400
    time.time_ns = lambda: now_ns() - 86_400 * 10**9


def _hold(note: Path) -> None:
    note.write_text("")
    while True:
        time.sleep(1)


def _child(plan: dict[str, Any], said: Path) -> int:
    sys.stderr = open(said, "w", buffering=1)  # noqa: SIM115 (until the process ends)
    try:
        attempt(**plan)
    except (UsageError, RunFailed) as error:  # as `experiments.study.run` does
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


def _fork(plan: dict[str, Any], said: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 98
        try:
            code = _child(plan, said)
        finally:
            os._exit(code)
    return child


def _ended(child: int) -> int:
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


def main(plans: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Makes the attempts; one with `hold` is killed when the next has ended, one with `after` after as many seconds."""
    results = []
    holding: int | None = None
    for index, given in enumerate(plans):
        plan = dict(given)
        after = plan.pop("after", None)
        said = Path(f"{plan['folder']}.said-{index}")
        child = _fork(plan, said)
        if "hold" in plan:
            note = Path(plan["folder"] + ".held")
            status = (0, 0)
            while not note.exists() and status == (0, 0):
                time.sleep(0.05)
                status = os.waitpid(child, os.WNOHANG)
            if status == (0, 0):
                holding = child
            results.append((-signal.SIGKILL if holding else os.waitstatus_to_exitcode(status[1]), said.read_text()))
            continue
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        results.append((_ended(child), said.read_text()))
        if holding is not None:
            os.kill(holding, signal.SIGKILL)
            _ended(holding)
            holding = None
    return results


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
