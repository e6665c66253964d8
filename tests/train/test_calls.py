"""Several steps in one call: hooks, checkpoints, bad steps and interruptions are as with one."""

import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train import MetricsWriter, Term, build_train_step, create_state, data_parallel, read_metrics, skip_nonfinite
from train.errors import RunFailed, UsageError
from train.guard import BadSteps
from train.loop import fit
from train.records.checkpoint import Checkpointer

OPTIMIZER = optax.adam(0.1)


def objective(params, batch, ctx):
    noise = jax.random.normal(ctx.key, batch["x"].shape)
    return {"square": Term((params["w"] - batch["x"] - 0.1 * noise) ** 2, batch["valid"])}


STEP = skip_nonfinite(build_train_step(objective, OPTIMIZER, loss_weights={"square": 1.0}, accumulate=2))


class Batches:
    """The n-th batch is drawn from n; some are NaN."""

    def __init__(self, bad=()):
        self.bad, self.position = bad, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.position += 1
        rng = np.random.default_rng(self.position)
        x = rng.normal(size=16).astype(np.float32)
        return {"x": x * (math.nan if self.position in self.bad else 1), "valid": rng.random(16) < 0.7}

    def get_state(self):
        return self.position

    def set_state(self, position):
        self.position = position


def run(folder, steps_per_call, bad=(), backend="jit", hooks=(), limits=None, steps=23):
    """Final parameters, saved steps and lines of metrics of a training, resumed if it was interrupted."""
    step = data_parallel(STEP, backend, None if backend != "jit" else jax.devices()[:2])
    state, batches = create_state({"w": jnp.zeros(())}, OPTIMIZER, key=0, ema=False), Batches(bad)
    folder.mkdir(parents=True, exist_ok=True)
    with MetricsWriter(folder, every=3) as writer:
        bad_steps = BadSteps(writer=writer, **(limits or {}))
        extras = {"bad_steps": bad_steps}
        with Checkpointer(folder / "checkpoints", every=7, keep=9, iterator=batches, extras=extras) as saver:
            state = saver.restore_latest(state) or state
            writer.truncate_after(int(state.step))
            state = fit(
                state,
                step,
                batches,
                steps=steps,
                hooks=[writer, *hooks, saver],
                progress=False,
                bad_steps=bad_steps,
                steps_per_call=steps_per_call,
            )
    saved = sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
    lines = [(r["step"], r["split"], r["values"].get("square", 0.0)) for r in read_metrics(folder)]
    return float(state.params["w"]), saved, lines


def same(one, other):
    assert one[:2] == other[:2]
    assert [line[:2] for line in one[2]] == [line[:2] for line in other[2]]
    np.testing.assert_array_equal([line[2] for line in one[2]], [line[2] for line in other[2]])


@pytest.mark.parametrize("backend", ["jit", "pmap", "shard_map"])
def test_hooks_and_checkpoints_are_as_without(tmp_path, backend):
    same(run(tmp_path / "many", 5, backend=backend), run(tmp_path / "one", 1, backend=backend))


@pytest.mark.parametrize(
    ("bad", "limits"), [({4, 12}, {}), ({10, 11}, {"max_consecutive_bad": 2}), ({8, 9, 10}, {"max_consecutive_bad": 2})]
)
def test_bad_steps_are_passed_over_and_gone_back_from_as_without(tmp_path, bad, limits, capsys):
    one, many = (run(tmp_path / str(n), n, bad, limits=limits) for n in (1, 5))
    same(many, one)
    splits = {line[1] for line in one[2]}
    assert splits == {"train", "skipped"} | ({"rollback"} if limits else set())


def test_too_many_returns_fail_as_without(tmp_path, capsys):
    messages = []
    for n in (1, 4):
        with pytest.raises(RunFailed) as failed:
            run(tmp_path / str(n), n, set(range(9, 99)), limits={"max_consecutive_bad": 2, "max_rollbacks": 1})
        messages.append(str(failed.value).replace(str(tmp_path / str(n)), ""))
    assert messages[0] == messages[1]


class At:
    every = 10

    def __call__(self, step, state, metrics):
        if step == 10:
            os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path / "killed", 5, hooks=[At()])
    resumed, whole = run(tmp_path / "killed", 5), run(tmp_path / "whole", 1)
    assert (resumed[0], resumed[2]) == (whole[0], whole[2])


def test_fewer_calls_are_made(tmp_path):
    calls = []
    step = data_parallel(STEP, devices=jax.devices()[:1])
    several = step.scanned()

    def make_one(state, batch):
        raise AssertionError("a call for one step")

    def make_several(state, batch):
        calls.append(batch["x"].shape[1])
        return several(state, batch)

    make_one.scanned = lambda: make_several
    state = create_state({"w": jnp.zeros(())}, OPTIMIZER, key=0)
    fit(state, make_one, Batches(), steps=23, progress=False, steps_per_call=10)
    assert calls == [10, 10, 3]


def test_a_step_compiled_by_hand_is_scanned_too():
    states = []
    for n in (1, 4):
        state = create_state({"w": jnp.zeros(())}, OPTIMIZER, key=0)
        states.append(fit(state, jax.jit(STEP), Batches(), steps=9, progress=False, steps_per_call=n))
    assert float(states[0].params["w"]) == float(states[1].params["w"])
    with pytest.raises(UsageError, match="steps_per_call of at least 1, got 50 and 0"):
        fit(states[0], jax.jit(STEP), Batches(), steps=99, steps_per_call=0)
