"""A NaN that the loss never reads: the save that finds it goes back to the last good checkpoint, or ends the run."""

import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.support.resumable import At
from train import (
    BadSteps,
    Checkpointer,
    EarlyStopping,
    Evaluate,
    MetricsWriter,
    RunFailed,
    StopTraining,
    Term,
    build_train_step,
    create_state,
    fit,
    read_metrics,
    skip_nonfinite,
)
from train.guard import find_nonfinite

ADAM, STEPS, EVERY = optax.adam(0.1), 20, 4


def objective(params, batch, ctx):
    return {"square": Term((params["w"] - batch) ** 2, weights=1)}


STEP = jax.jit(skip_nonfinite(build_train_step(objective, ADAM, loss_weights={"square": 1.0}, ema_decay=0.9)))


def start():
    return create_state({"w": jnp.zeros(()), "unread": jnp.ones(2)}, ADAM, key=0, ema=True)


def batch_of(number):
    return np.random.default_rng(number).normal(size=2).astype(np.float32)


class Batches:
    """Step n takes the n-th batch; each remembers its number."""

    def __init__(self):
        self.position = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.position += 1
        return self.position, batch_of(self.position)

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def spoil_ema(state):
    return state.replace(ema=state.ema | {"unread": jnp.array([1, math.nan])})


def spoil_params(state):
    return state.replace(params=state.params | {"unread": jnp.array([math.inf, 1])})


def spoil_optimizer(state):
    return state.replace(opt_state=jax.tree.map(lambda x: x * math.nan if x.shape == (2,) else x, state.opt_state))


# What is spoilt, and what is named when it is found: the optimizer's NaN has reached the parameter by then.
SPOILT = {spoil_ema: "ema/unread", spoil_params: "params/unread", spoil_optimizer: "params/unread"}


class Seen:
    """Notes whether the hooks see a state that is not finite, and what is saved."""

    every = EVERY

    def __init__(self):
        self.steps = []

    def __call__(self, step, state, metrics):
        assert find_nonfinite(state) == []
        self.steps.append(step)


def train(folder, faults, spoil=spoil_ema, *, hooks=(), guarded=True, keep=3, best=None, **limits):
    """A run with a state corrupted after some steps; returns the last state, the counts and the saved steps."""

    def step(state, numbered):
        number, batch = numbered
        state, metrics = STEP(state, batch)
        return spoil(state) if number in faults else state, metrics

    folder.mkdir(exist_ok=True)
    data = Batches()
    with MetricsWriter(folder, every=6) as writer:
        bad_steps = BadSteps(writer=writer, **limits)
        options = {"every": EVERY, "keep": keep, "iterator": data, "extras": {"bad": bad_steps}, "best": best}
        with Checkpointer(folder / "checkpoints", **options) as checkpointer:
            state = checkpointer.restore_latest(start()) or start()
            writer.truncate_after(int(state.step))
            given = bad_steps if guarded else None
            state = fit(state, step, data, steps=STEPS, hooks=[writer, *hooks, checkpointer], bad_steps=given)
    return state, bad_steps


def saved(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdecimal())


def descend(numbers):
    state = start()
    for number in numbers:
        state, _ = STEP(state.replace(step=jnp.int32(number - 1)), batch_of(number))
    return state


def same(one, other):
    for a, b in zip(jax.tree.leaves(one.replace(key=0)), jax.tree.leaves(other.replace(key=0)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_refused_save_goes_back_at_once(tmp_path, capsys, spoil):
    seen = Seen()
    state, bad_steps = train(tmp_path, {10}, spoil, hooks=[seen])
    # Found at the save of step 12, which continues with the state of 8 and the thirteenth batch.
    same(state, descend([*range(1, 9), *range(13, STEPS + 1)]))
    assert (bad_steps.rollbacks, bad_steps.total) == (1, 0)
    assert saved(tmp_path) == [12, 16, 20]
    assert seen.steps == [4, 8, 12, 16, 20]
    told = capsys.readouterr().err
    assert f"warning: {SPOILT[spoil]}" in told
    assert "not finite after step 12, though its loss and gradient were; continuing with the state of step 8" in told
    lines = [(line["step"], line["split"]) for line in read_metrics(tmp_path)]
    assert [line for line in lines if line[1] != "train"] == [(12, "rollback")]


def test_going_back_again_and_again_ends_the_run(tmp_path):
    with pytest.raises(
        RunFailed,
        match=r"ema/unread not finite after step 16, .*; 2 return.s. to a checkpoint did not help; the last good "
        r"checkpoint is step 12 in .*checkpoints; .* look at what changes ema/unread",
    ):
        train(tmp_path, set(range(7, 100)), max_rollbacks=2)
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        restored = checkpointer.restore_latest(start())
    same(restored, descend(range(1, 5)).replace(step=jnp.int32(12)))  # what is on disk is good


@pytest.mark.parametrize(
    ("fault", "options", "message"),
    [
        (2, {}, r"ema/unread not finite after step 4, .* there is no checkpoint to go back to"),
        (10, {"max_rollbacks": 0}, r"ema/unread not finite after step 12, .*; no return to a checkpoint is allowed; "),
        (10, {"guarded": False}, r"ema/unread not finite after step 12, .*; the last good checkpoint is step 8 in "),
        (19, {}, r"ema/unread not finite after step 20, .*; the last good checkpoint is step 16 in "),
    ],
    ids=["no checkpoint", "never back", "without BadSteps", "at the end"],
)
def test_a_refused_save_ends_the_run(tmp_path, fault, options, message):
    with pytest.raises(RunFailed, match=message):
        train(tmp_path, {fault}, **options)
    assert saved(tmp_path) == [step for step in (4, 8, 12, 16) if step < fault][-3:]


def test_a_checkpoint_that_is_not_finite_itself_is_no_way_back(tmp_path):
    with Checkpointer(tmp_path / "checkpoints", iterator=Batches()) as checkpointer:
        checkpointer.save(8, spoil_ema(descend(range(1, 9))))
        with pytest.raises(RunFailed, match=r"after step 12, .* checkpoint of step 8 does not help: ema/unread not"):
            BadSteps().roll_back(12, start(), [checkpointer], ["params/unread"])


def test_a_training_that_stops_early_is_not_saved_with_it(tmp_path):
    def stop():
        raise StopTraining("enough")

    with pytest.raises(RunFailed, match=r"ema/unread not finite after step 10, .* checkpoint is step 8 in"):
        train(tmp_path, {9}, hooks=[At(10, stop)])
    assert saved(tmp_path) == [4, 8]


def test_the_best_checkpoint_is_kept_when_a_save_is_refused(tmp_path):
    values = iter([3.0, 1.0, 2.0, 2.0, 2.0])  # at 4, 8, ..., of which 12 is where the save is refused
    evaluate = Evaluate(lambda state, batch: {"score": (next(values), 1.0)}, lambda: [0], every=EVERY)
    stopping = EarlyStopping("score", patience=None, every=EVERY, source=evaluate)
    state, _ = train(tmp_path, {10}, hooks=[evaluate, stopping], keep=1, best=stopping)
    assert saved(tmp_path) == [8, 20]
    with Checkpointer(tmp_path / "checkpoints", best=stopping) as checkpointer:
        same(checkpointer.read_best(state), descend(range(1, 9)))


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_an_interruption_says_that_its_step_was_not_saved(tmp_path, capsys):
    whole, _ = train(tmp_path / "whole", {10})
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        train(tmp_path / "parts", {10}, hooks=[At(9, terminate)])
    assert end.value.code == 143
    told = capsys.readouterr().err
    assert "stopped by SIGTERM after step 10: this step was not saved (ema/unread not finite after step 10)" in told
    assert f"the same command continues from step 8 in {tmp_path}" in told
    assert saved(tmp_path / "parts") == [4, 8]
    parts, bad_steps = train(tmp_path / "parts", {10})
    same(parts, whole)
    assert bad_steps.rollbacks == 1
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_interruption_before_any_checkpoint_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train(tmp_path, {2}, hooks=[At(2, terminate)])
    told = capsys.readouterr().err
    assert "after step 3: nothing was saved (ema/unread not finite after step 3)" in told


def test_an_interruption_in_a_row_of_bad_steps_says_what_was_saved(tmp_path, capsys):
    def nan_batches(state, numbered):
        number, batch = numbered
        return STEP(state, batch * (math.nan if number in (6, 7) else 1))

    with Checkpointer(tmp_path, every=EVERY) as checkpointer:
        hooks = [At(6, terminate), checkpointer]
        with pytest.raises(SystemExit):
            fit(start(), nan_batches, Batches(), steps=STEPS, hooks=hooks, bad_steps=BadSteps())
    told = capsys.readouterr().err
    assert "after step 7: this step was not saved (its numbers, or numbers of the steps before it, were bad)" in told
    assert "continues from step 4 in" in told
    assert "saved step" not in told


def test_an_update_that_overflows_again_and_again_ends_the_run(tmp_path):
    """A gradient of 1 and an infinite rate at the fourth update, which comes again after each return."""
    optimizer = optax.sgd(lambda count: jnp.where(count == 3, jnp.inf, 1.0))
    body = build_train_step(
        lambda p, b, ctx: {"linear": Term(p["w"] * b, weights=1)}, optimizer, loss_weights={"linear": 1.0}
    )
    step, state = jax.jit(skip_nonfinite(body)), create_state({"w": jnp.float32(0)}, optimizer, key=0)
    batches = [np.ones(2, np.float32)] * 20
    with Checkpointer(tmp_path, every=2) as checkpointer:
        with pytest.raises(RunFailed, match=r"params/w not finite after step 8, .*; 2 return.s. .* is step 6 in"):
            fit(state, step, batches, steps=20, hooks=[checkpointer], bad_steps=BadSteps(max_rollbacks=2))
        assert float(checkpointer.restore_latest(state).params["w"]) == -2
    with pytest.raises(RunFailed, match=r"params/w not finite after step 4, .* no checkpoint was saved"):
        fit(state, step, batches, steps=4, bad_steps=BadSteps())  # it would be the result
