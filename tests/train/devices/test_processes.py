"""Two processes, one CPU device each, that make one run: equal to one process, and ending together."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.train.support.processes import end, free_port
from tests.train.support.two_processes import train
from train import read_metrics
from train.devices.processes import check_same, join, on_process_zero, preempted, wait_for_all
from train.errors import UsageError

ROOT = Path(__file__).parents[3]
STEPS = 200


def start(folder, indices=(0, 1), **plan):
    """Starts the processes of a plan, both of them unless told otherwise."""
    plan = {"folder": str(folder), "port": free_port(), "count": 2, "steps": STEPS} | plan
    path = folder.parent / f"plan-{plan['port']}.json"
    path.write_text(json.dumps(plan))
    clean = {name: value for name, value in os.environ.items() if "XLA" not in name and "proxy" not in name.lower()}
    environment = clean | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-m", "tests.train.support.two_processes", str(path)]
    return [
        subprocess.Popen(
            [*command, str(index)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for index in indices
    ]


def test_two_processes_equal_one_and_end_together_at_sigterm(tmp_path):
    whole, _ = train(tmp_path / "one", STEPS, devices=jax.devices()[:2])
    folder = tmp_path / "two"

    codes, errors, _ = end(start(folder, harm={"signal": "SIGTERM", "step": 5, "index": 1}))
    assert codes == [143, 143], errors
    (stopped,) = {line.split(" after step ")[1].split(":")[0] for error in errors for line in error.splitlines()
                  if line.startswith("stopped by SIGTERM")}  # fmt: skip
    assert 5 <= int(stopped) < STEPS
    assert max(int(path.name) for path in (folder / "ckpt").iterdir() if path.name.isdecimal()) == int(stopped)

    codes, errors, _ = end(start(folder))
    assert codes == [0, 0], errors
    for index, error in enumerate(errors):
        assert f"process {index} holds 8192 of 16384 bytes" in error
    np.testing.assert_allclose(np.load(folder / "w.npy"), whole, rtol=1e-6, atol=1e-6)
    mine, theirs = (read_metrics(tmp_path / name) for name in ("two", "one"))
    assert [record["step"] for record in mine] == [record["step"] for record in theirs]
    for name in ("loss", "grad_norm", "square"):
        values = [[record["values"][name] for record in records] for records in (mine, theirs)]
        np.testing.assert_allclose(*values, rtol=1e-5)

    # And on, as one process with four devices instead of two processes with one each.
    whole, _ = train(tmp_path / "one", STEPS + 5, devices=jax.devices()[:2])
    again, _ = train(folder, STEPS + 5, devices=jax.devices()[:4])
    np.testing.assert_allclose(again, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.faults
@pytest.mark.parametrize("split", ["tensor", "jit", "shard_map", "pmap"])
def test_two_processes_equal_one_however_they_are_split(tmp_path, split):
    """Over `tensor` both have the same rows; the backends keep the parameters whole."""
    whole, _ = train(tmp_path / "one", STEPS, split, devices=jax.devices()[:2])
    codes, errors, _ = end(start(tmp_path / "two", split=split))
    assert codes == [0, 0], errors
    assert f"process 1 holds {8192 if split == 'tensor' else 16384} of 16384 bytes" in errors[1]
    np.testing.assert_allclose(np.load(tmp_path / "two/w.npy"), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.faults
@pytest.mark.parametrize("index", [0, 1])
def test_a_killed_process_ends_the_other(tmp_path, index):
    processes = start(tmp_path / "run", steps=10**6, harm={"signal": "SIGKILL", "step": 5, "index": index})
    before = time.monotonic()
    codes, errors, _ = end(processes, limit=90)
    assert time.monotonic() - before < 90
    assert codes[index] == -9
    assert codes[1 - index] not in (0, -9)
    assert (
        f"a step failed in process {1 - index} of 2, most likely because another process has ended" in errors[1 - index]
    )


@pytest.mark.faults
def test_sigterm_to_both_as_a_scheduler_sends_it(tmp_path):
    codes, errors, _ = end(start(tmp_path / "run", harm={"signal": "SIGTERM", "step": 5}))
    assert codes == [143, 143], errors
    assert len({line for error in errors for line in error.splitlines() if line.startswith("stopped by SIGTERM")}) == 1


@pytest.mark.faults
def test_a_process_that_hangs_ends_the_others(tmp_path):
    processes = start(tmp_path / "run", steps=10**6, harm={"signal": "SIGSTOP", "step": 5, "index": 1})
    first, stopped = processes
    told = first.communicate(timeout=90)[1]  # by the heartbeat, of 10 seconds here
    stopped.kill()
    stopped.communicate()
    assert first.returncode not in (0, -9)
    assert "another task died" in told or "another process has ended" in told


@pytest.mark.faults
@pytest.mark.parametrize(
    ("indices", "count", "reasons"),
    [
        ((0,), 2, ["some of the other processes have not joined"]),
        ((1,), 2, ["process 0 does not answer at localhost:{port}"]),
        ((0, 1), 3, ["some of the other processes have not joined", ""]),  # the first may have ended by then
    ],
    ids=["no second", "no first", "no third"],
)
def test_a_process_that_never_starts_ends_the_others(tmp_path, indices, count, reasons):
    processes = start(tmp_path / "run", indices, count=count, port=(port := free_port()), start_seconds=6)
    codes, errors, _ = end(processes, limit=60)
    assert codes == [2] * len(indices), errors
    for error, reason in zip(errors, reasons, strict=True):
        assert error.startswith("error: cannot join the processes of this run (after 6 s ")
        assert reason.format(port=port) in error
        assert error.endswith("start all of them at about the same time, and check that each can reach process 0\n")
        assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
def test_processes_with_another_config_are_refused(tmp_path):
    codes, errors, _ = end(start(tmp_path / "run", harm={"config": 0.1}))
    assert codes == [2, 2]
    for error in errors:
        assert "process 1 was started with other inputs than process 0 (different: config.lr)" in error
    assert not (tmp_path / "run").exists()


def test_one_process_needs_no_others():
    seen = []
    check_same({"config": {"lr": 0.1}})
    on_process_zero(lambda: seen.append(1))
    wait_for_all("nothing")
    assert seen == [1]
    assert not preempted()

    def fail():
        raise UsageError("no place")

    with pytest.raises(UsageError, match="no place"):
        on_process_zero(fail)


def test_a_start_without_an_address_is_refused(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: (_ for _ in ()).throw(ValueError("no address")))
    with pytest.raises(UsageError, match=r"cannot join the processes of this run \(no address\); outside of SLURM"):
        join()


def test_others_that_never_come_are_not_waited_for_longer(monkeypatch):
    given, released = {}, threading.Event()

    def wait(*_, **options):
        given.update(options)
        released.wait()

    monkeypatch.setattr(jax.distributed, "initialize", wait)
    with socket.socket() as first:
        first.bind(("localhost", 0))
        address = f"localhost:{first.getsockname()[1]}"
        for index, listens, reason in [
            (0, False, "some of the other processes have not joined"),
            (1, False, f"process 0 does not answer at {address}"),
            (1, True, f"process 0 answers at {address}, but some of the other processes have not joined"),
        ]:
            if listens:
                first.listen()
            with pytest.raises(UsageError, match=rf"^cannot join the processes of this run \(after 0.1 s {reason}\); "):
                join(address, 2, index, start_seconds=0.1)
    assert given["initialization_timeout"] > 10**5  # at its end JAX aborts the process
    released.set()


def test_a_mistake_of_our_own_is_not_taken_for_the_users(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: {}["a bug"])
    with pytest.raises(KeyError, match="a bug"):
        join()
