"""Runs that are killed, starved of disk or started wrongly, each in a process of its own.

What a run that was harmed ends with is held to a run that never was, byte for byte. The first test harms one run by
many faults in turn and is among the default tests; the others, marked `faults`, try each fault alone.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.train.support.sabotage import POINTS

KILLED, STOPPED, REFUSED, FAILED = -9, 143, 2, 1
END = {"expect": 0}


def run_all(folder, *attempts):
    """Makes attempts at the run `folder`, and checks how each ends; gives what each said on stderr."""
    attempts = [dict(attempt) for attempt in attempts]
    expected = [attempt.pop("expect", KILLED if "kill" in attempt else None) for attempt in attempts]
    plan, result = Path(f"{folder}.plan"), Path(f"{folder}.result")
    plan.write_text(json.dumps([{"folder": str(folder)} | attempt for attempt in attempts]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.train.support.sabotage", str(plan), str(result)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(result.read_text())
    for attempt, expect, (code, said) in zip(attempts, expected, results, strict=True):
        assert expect is None or code == expect, (attempt, code, said)
        # Where a write fails, the event loop that Orbax leaves behind may print a trace of its own before the sentence.
        assert "Traceback" not in said or "full" in attempt, (attempt, said)
    return [said for _, said in results]


def order(folder):
    """The rows of each batch by its position; a batch drawn again has the same."""
    found = {}
    for line in Path(f"{folder}.order").read_text().splitlines():
        position, rows = json.loads(line)
        assert found.setdefault(position, rows) == rows
    return found


def end(folder):
    return json.loads(Path(f"{folder}.end").read_text())


def assert_same(folder, whole, *, last_save_cut=False):
    """Parameters, optimizer, keys, averages, data order and metrics of the two runs are the same, byte for byte.

    A run killed after its last checkpoint saves nothing more when restarted, and so does not clean up either.
    """
    rest = "12", ".deleting", ".saving.json"
    assert end(folder) == end(whole)
    assert order(folder) == order(whole)
    assert sorted(order(whole)) == list(range(1, 21))
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert kept >= {".lock", "18", "20"}
    assert kept <= {".lock", "18", "20", *(rest if last_save_cut else ())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("faults") / "whole"
    run_all(folder, END)
    return folder


def test_a_run_harmed_in_many_ways_in_turn_ends_like_one_that_was_not(tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    said = run_all(
        run,
        {"folder": str(whole)} | END,
        {"kill": "mid-step", "at": 3},
        {"kill": "mid-save", "at": 6},
        {"kill": "before-manifest", "at": 6},
        {"sigterm": 9, "expect": STOPPED},
        {"full_at_manifest": 12, "expect": FAILED},
        {"config": {"seed": 1}, "expect": REFUSED},
        {"hold": 10, "expect": KILLED},
        {"expect": REFUSED},
        {"kill": "mid-delete", "at": 18},
        {"full": 20, "expect": FAILED},
        END,
    )
    assert_same(run, whole)
    assert "step 9: saved step 9 in" in said[4]
    assert "No space left on device" in said[5]
    assert "the checkpoint of step 9 is intact" in said[5]
    assert "seed was 0 and is now 1" in said[6]
    assert f"another run is writing to {run}: process " in said[8]
    assert "the checkpoint of step 18 is intact" in said[10]


@pytest.mark.faults
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("at", [12, 20])
def test_killed(tmp_path, whole, point, at):
    at = 18 if "delete" in point and at == 12 else at  # the first save after which something is deleted
    run_all(tmp_path / "run", {"kill": point, "at": at}, END)
    assert_same(tmp_path / "run", whole, last_save_cut=at == 20)


@pytest.mark.faults
def test_killed_at_any_operation_on_a_file(tmp_path, whole):
    count = int(Path(f"{whole}.events").read_text())
    numbers = sorted(random.Random(0).sample(range(1, count), 12))
    attempts = [a | {"folder": str(tmp_path / str(n))} for n in numbers for a in ({"kill": n, "expect": None}, END)]
    run_all(tmp_path / "run", *attempts)
    for number in numbers:
        assert_same(tmp_path / str(number), whole, last_save_cut=True)


@pytest.mark.faults
def test_killed_at_any_time(tmp_path, whole):
    seconds = random.Random(1)
    run_all(tmp_path / "run", *({"after": seconds.uniform(0.3, 3.0)} for _ in range(10)), END)
    assert_same(tmp_path / "run", whole, last_save_cut=True)


@pytest.mark.faults
@pytest.mark.parametrize("at", [9, 12, 20])
def test_sigterm(tmp_path, whole, at):
    said = run_all(tmp_path / "run", {"sigterm": at, "expect": STOPPED}, END)
    assert f"stopped by SIGTERM after step {at}: saved step {at} in" in said[0]
    assert_same(tmp_path / "run", whole)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("sabotage", "reason"),
    [
        ({"full": 12}, ""),
        ({"full": 20}, ""),
        ({"full_at_manifest": 12}, "No space left on device"),
        ({"full_at_manifest": 20}, "No space left on device"),
        ({"readonly": 12}, "Permission denied"),
    ],
    ids=["while-saving", "last-save", "checksums", "last-checksums", "readonly"],
)
def test_failed_save(tmp_path, whole, sabotage, reason):
    (step,) = sabotage.values()
    before = {12: 6, 20: 18}[step]
    run = tmp_path / "run"
    sentence = run_all(run, sabotage | {"expect": FAILED})[0].splitlines()[-1]
    assert sentence.startswith(f"error: cannot save the checkpoint of step {step} in {run}/checkpoints ({reason}")
    assert sentence.endswith(f"the checkpoint of step {before} is intact")
    (run / "checkpoints").chmod(0o755)
    run_all(run, END)
    assert_same(run, whole)


@pytest.mark.faults
def test_save_fails_where_it_is_made_and_not_later(tmp_path):
    # There are no asynchronous saves: the metrics of the steps after a failed save were never written.
    run_all(tmp_path / "run", {"full": 12, "expect": FAILED})
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 8, 12]


@pytest.mark.faults
def test_another_number_of_devices(tmp_path):
    alone, run = tmp_path / "alone", tmp_path / "run"
    said = run_all(
        run,
        {"folder": str(alone), "devices": 1} | END,
        {"devices": 1, "sigterm": 7, "expect": STOPPED},
        {"devices": 4, "sigterm": 13, "expect": STOPPED},
        {"devices": 2} | END,
    )
    assert "different: devices.count" in said[2]
    assert order(run) == order(alone)
    ends = end(run), end(alone)
    values = [name for name in ends[0] if name.endswith(" values")]
    assert any("params" in name for name in values)
    for name in values:
        np.testing.assert_allclose(ends[0][name], ends[1][name], rtol=1e-6, atol=1e-6, err_msg=name)
    metrics = [[json.loads(x) for x in (f / "metrics.jsonl").read_text().splitlines()] for f in (run, alone)]
    assert jax.tree.structure(metrics[0]) == jax.tree.structure(metrics[1])


CHANGES = {
    "seed": ({"config": {"seed": 1}}, "seed was 0 and is now 1", "seed"),
    "batch_size": ({"config": {"batch_size": 16}}, "batch_size was 8 and is now 16", "batch_size"),
    "config": (
        {"config": {"data": {"name": "letters"}, "depth": 2}},
        'data.name was "numbers" and is now "letters"; depth was nothing and is now 2',
        "data,depth",
    ),
    "data": ({"data": "b"}, 'data was "a" and is now "b"', "data"),
    "dtype": ({"dtype": "float16"}, ".params['w'] as float32[3], but this state has it as float16[3]", "dtype"),
    "x64": ({"x64": True}, "x64 was false and is now true", "x64,dtype"),
}


@pytest.mark.faults
@pytest.mark.parametrize("name", CHANGES)
def test_changed(tmp_path, name):
    change, message, allow = CHANGES[name]
    said = run_all(
        tmp_path / "run",
        {"sigterm": 7, "expect": STOPPED},
        change | {"expect": REFUSED},
        change | {"allow": allow.split(",")} | END,
    )
    assert message in said[1]
    assert "--allow-changed" in said[1]
    if name not in ("dtype", "x64"):
        assert "continues with" in said[2]
    assert sorted(order(tmp_path / "run")) == list(range(1, 21))  # it resumed, and did not start from scratch


@pytest.mark.faults
def test_second_writer(tmp_path, whole):
    said = run_all(tmp_path / "run", {"hold": 10, "expect": KILLED}, {"expect": REFUSED}, END)
    assert "another run is writing to" in said[1]
    assert "since 2" in said[1]
    assert_same(tmp_path / "run", whole)  # the text of the process that was killed is no obstacle


@pytest.mark.faults
def test_clock_set_back(tmp_path, whole):
    run_all(tmp_path / "run", {"clock": 8, "sigterm": 15, "expect": STOPPED}, {"clock": 16} | END)
    assert_same(tmp_path / "run", whole)
