"""NaN and infinity: such a step changes nothing on any replica, is counted and written, and a row of them goes back."""

import dataclasses
import json
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from tests.train.support.resumable import At
from train import (
    BadSteps,
    Checkpointer,
    MetricsWriter,
    RunFailed,
    Term,
    UsageError,
    build_eval_step,
    build_train_step,
    create_state,
    data_parallel,
    fit,
    gather,
    make_mesh,
    read_metrics,
    shard_state,
    skip_nonfinite,
)
from train.guard import KEPT, find_nonfinite, outcome

SIZE, STEPS = 16, 20
RNG = np.random.default_rng(0)
BATCH = {
    "x": RNG.normal(size=(SIZE, 3)).astype(np.float32),
    "y": RNG.normal(size=SIZE).astype(np.float32),
    "under_root": np.ones(SIZE, np.float32),
}
BACKENDS = {
    "jit": {"backend": "jit"},
    "pmap": {"backend": "pmap"},
    "shard_map": {"backend": "shard_map", "check_vma": True},
    "shard_map unchecked": {"backend": "shard_map", "check_vma": False},
}
RATES = {"square": 1.0, "root": 0.5}
ADAM = optax.adam(0.1)


def objective(params, batch, ctx):
    error = batch["x"] @ params["w"] - batch["y"]
    # Its value is the root of what the batch says and its derivative 0.5 / that, so infinite at 0.
    root = jnp.sqrt(batch["under_root"] + params["b"] - jax.lax.stop_gradient(params["b"]))
    seen = {"count": ctx.state["count"] + 1, "mean": ctx.state["mean"] / 2 + jnp.mean(error) / 2}
    if ctx.axis_name is not None:
        seen["mean"] = jax.lax.pmean(seen["mean"], ctx.axis_name)
    return {"square": Term(error**2, weights=1), "root": Term(root, weights=1)}, seen


def start(optimizer=ADAM):
    params = {"w": np.array([1.0, -1.0, 0.5], np.float32), "b": np.float32(0.25)}
    collections = {"count": jnp.int32(0), "mean": jnp.float32(0)}
    return create_state(params, optimizer, key=jax.random.key(3), ema=True, state=collections)


def guarded(**options):
    return skip_nonfinite(build_train_step(objective, ADAM, loss_weights=RATES, ema_decay=0.9, **options))


def spoilt(name, value, row):
    changed = BATCH[name].copy()
    changed[row] = value
    return BATCH | {name: changed}


def kept_by(state):
    """All that a skipped step must leave alone, as bytes."""
    leaves = jax.tree.leaves((state.params, state.opt_state, state.ema, state.state, jax.random.key_data(state.key)))
    return [np.asarray(leaf).tobytes() for leaf in leaves]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_on_one_device_is_skipped_alike_on_all(backend):
    step = data_parallel(guarded(accumulate=2), **BACKENDS[backend])
    state, metrics = step(start(), BATCH)
    assert metrics["skipped"][0] == 0
    # Rows 10 and 11 are those of the sixth of eight devices, one in each of its micro-batches.
    for batch, finite in [
        (spoilt("x", math.nan, 11), []),
        (spoilt("y", math.inf, 10), []),
        (spoilt("y", -math.inf, 11), []),
        (spoilt("under_root", 0.0, 10), ["loss", "root", "square"]),  # only the gradient is infinite
    ]:
        before, number = kept_by(state), int(state.step)
        state, metrics = step(state, batch)
        assert int(state.step) == number + 1
        assert kept_by(state) == before
        assert float(metrics["skipped"][0]) == 1
        assert not np.isfinite(metrics["grad_norm"][0])
        for name in ("loss", "root", "square"):  # reported as they are
            assert np.isfinite(metrics[name][0]) == (name in finite or name == "root")
        for leaf in jax.tree.leaves((state.params, state.opt_state, state.ema, state.state)):
            replicas = {np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards}
            assert len(leaf.addressable_shards) == 8
            assert len(replicas) == 1
    after, _ = step(state, BATCH)
    clean = data_parallel(guarded(accumulate=2), **BACKENDS[backend])
    reference, _ = clean(clean(start(), BATCH)[0], BATCH)
    assert kept_by(after) == kept_by(reference)  # as if the bad steps had never been
    assert int(after.step) == int(reference.step) + 4


@pytest.mark.parametrize(("seen", "skipped"), [(1.0, False), (3e38, True), (-math.inf, False), (math.nan, False)])
def test_a_collection_that_breaks_is_a_bad_number(seen, skipped):
    def linear(params, batch, ctx):
        return {"linear": Term(params * batch, weights=1)}, {"seen": 2 * ctx.state["seen"]}  # 6e38 is infinite

    optimizer = optax.sgd(1.0)
    step = jax.jit(skip_nonfinite(build_train_step(linear, optimizer, loss_weights={"linear": 1.0})))
    state = create_state(jnp.float32(1), optimizer, key=0, state={"seen": jnp.float32(seen)})
    after, metrics = step(state, np.ones(2, np.float32))
    assert np.isfinite(metrics["loss"][0])
    assert np.isfinite(metrics["grad_norm"][0])
    assert float(metrics["skipped"][0]) == skipped
    assert float(after.params) == (1 if skipped else 0)


def test_fifty_in_a_row(tmp_path):
    """`optax.apply_if_finite` lets the sixth NaN through at five allowed; here none gets through, however many come."""
    step = jax.jit(guarded())
    batches = [BATCH, *[spoilt("x", math.nan, 3)] * 50, BATCH]
    bad_steps = BadSteps(max_consecutive_bad=51, writer=MetricsWriter(tmp_path))
    state = fit(start(), step, batches, steps=52, bad_steps=bad_steps)
    reference = start()
    for _ in range(2):
        reference, _ = step(reference, BATCH)
    assert kept_by(state) == kept_by(reference)
    assert int(state.step) == 52
    assert (bad_steps.consecutive, bad_steps.total, bad_steps.rollbacks) == (0, 50, 0)
    lines = read_metrics(tmp_path)
    assert [(line["step"], line["split"]) for line in lines] == [(number, "skipped") for number in range(2, 52)]
    assert all(math.isnan(line["values"]["loss"]) and line["values"]["root"] == 1 for line in lines)
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["values"]["square"] == "NaN"


class Batches:
    """Step n takes the n-th batch; some are bad."""

    def __init__(self, bad):
        self.bad, self.position = bad, 0
        self.seen = []

    def __iter__(self):
        return self

    def __next__(self):
        self.position += 1
        self.seen.append(self.position)
        return batch_of(self.position, self.position in self.bad)

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def batch_of(number, bad=False):
    y = np.random.default_rng(number).normal(size=SIZE).astype(np.float32)
    y[5] = math.nan if bad else y[5]
    return BATCH | {"y": y}


STEP = jax.jit(guarded())


class Saved:
    """Notes what is on disk after each step."""

    every = 1

    def __init__(self, checkpointer):
        self.checkpointer, self.steps = checkpointer, []

    def __call__(self, step, state, metrics):
        latest = self.checkpointer.latest_step
        if latest is not None and latest not in self.steps:
            self.steps.append(latest)


def train(folder, bad, *, hooks=(), keep=3, **limits):
    """A run that is started or resumed; returns the last state, the data, the counts, and the checkpoints seen."""
    folder.mkdir(exist_ok=True)
    data = Batches(bad)
    with MetricsWriter(folder, every=6) as writer:
        bad_steps = BadSteps(writer=writer, **limits)
        options = {"every": 4, "keep": keep, "iterator": data, "extras": {"bad": bad_steps}}
        with Checkpointer(folder / "checkpoints", **options) as checkpointer:
            state = checkpointer.restore_latest(start()) or start()
            writer.truncate_after(int(state.step))
            saved = Saved(checkpointer)
            hooks = [writer, checkpointer, saved, *hooks]
            state = fit(state, STEP, data, steps=STEPS, hooks=hooks, bad_steps=bad_steps)
    return state, data, bad_steps, saved.steps


def descend(state, numbers):
    for number in numbers:
        state, _ = STEP(state.replace(step=jnp.int32(number - 1)), batch_of(number))
    return state


@pytest.mark.parametrize("wait", [True, False])
def test_a_row_of_bad_steps_goes_back_to_the_last_checkpoint(tmp_path, monkeypatch, capsys, wait):
    monkeypatch.setattr("train.loop._must_wait", lambda: wait)
    state, data, bad_steps, _ = train(tmp_path, {10, 11, 13, 14, 15, 16}, max_consecutive_bad=3)
    # 10 and 11 are skipped. 15 is the third in a row: back to the state of step 12. 16 is skipped, 17 is good.
    reference = descend(start(), [*range(1, 10), 12, *range(17, STEPS + 1)])
    assert kept_by(state) == kept_by(reference)
    assert int(state.step) == STEPS
    assert data.seen == list(range(1, STEPS + 1))  # the data were passed over, not drawn again
    assert (bad_steps.consecutive, bad_steps.total, bad_steps.rollbacks) == (0, 6, 1)
    lines = [(line["step"], line["split"]) for line in read_metrics(tmp_path)]
    assert [line for line in lines if line[1] != "train"] == [
        *((number, "skipped") for number in (10, 11, 13, 14, 15)),
        (15, "rollback"),
        (16, "skipped"),
    ]
    assert [step for step, split in lines if split == "train"] == [6, 12, 18, 20]
    warnings = capsys.readouterr().err
    assert "step 10 is skipped, because grad_norm = nan, loss = nan, square = nan;" in warnings
    assert "3 steps in a row, up to step 15, had a loss" in warnings
    assert "continuing with the state of step 12" in warnings


def test_nothing_is_saved_in_a_row_of_bad_steps(tmp_path):
    # Not at 8, nor at 12. At 9 it goes back to 4, so 5 and 6 are lost.
    state, _, _, saved = train(tmp_path, {7, 8, 9, 12}, max_consecutive_bad=3)
    assert saved == [4, 16]
    assert kept_by(state) == kept_by(descend(start(), [1, 2, 3, 4, 10, 11, *range(13, STEPS + 1)]))


def test_a_run_fails_when_going_back_does_not_help(tmp_path):
    with pytest.raises(
        RunFailed, match=r"3 steps in a row, up to step 15, .* 2 return.s. to a checkpoint did not help"
    ):
        train(tmp_path, set(range(7, 100)), max_consecutive_bad=3, max_rollbacks=2)
    assert [line["step"] for line in read_metrics(tmp_path) if line["split"] == "skipped"] == list(range(7, 16))
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        restored = checkpointer.restore_latest(start())
    assert kept_by(restored) == kept_by(descend(start(), range(1, 5)))  # what is on disk is good


def test_a_run_without_checkpoint_fails():
    bad_steps = BadSteps(max_consecutive_bad=2)
    with pytest.raises(RunFailed, match=r"2 steps in a row, up to step 3, .* there is no checkpoint to go back to"):
        fit(start(), STEP, Batches({2, 3}), steps=5, bad_steps=bad_steps)


def test_a_state_spread_over_devices_goes_back_as_well(tmp_path):
    def linear(params, batch, ctx):
        return {"square": Term((batch["x"] @ params["w"] - batch["y"]) ** 2, weights=1)}

    def fresh():
        return create_state({"w": jnp.arange(8.0)}, ADAM, key=0)

    def batch(number):
        rng = np.random.default_rng(number)
        x = rng.normal(size=(16, 8)).astype(np.float32)
        x[9] = math.nan if number in (4, 5) else x[9]
        return {"x": x, "y": rng.normal(size=16).astype(np.float32)}

    mesh, body = make_mesh(fsdp=8), skip_nonfinite(build_train_step(linear, ADAM, loss_weights={"square": 1.0}))
    with Checkpointer(tmp_path, every=2) as checkpointer:
        state = fit(
            shard_state(fresh, mesh, min_size=1),
            data_parallel(body, mesh=mesh),
            map(batch, range(1, 9)),
            steps=8,
            hooks=[checkpointer],
            bad_steps=BadSteps(max_consecutive_bad=2),
        )
    reference = fresh()
    for number in (1, 2, 6, 7, 8):
        reference, _ = jax.jit(body)(reference, batch(number))
    assert state.params["w"].sharding.spec == PartitionSpec("fsdp")
    np.testing.assert_allclose(gather(state.params)["w"], reference.params["w"], rtol=1e-5)


@pytest.mark.parametrize("stop", [9, 10, 13, 16])
def test_an_interrupted_run_is_the_same(tmp_path, stop):
    bad = {9, 10, 11, 15, 16, 17}
    whole = train(tmp_path / "whole", bad, max_consecutive_bad=3)
    with pytest.raises(SystemExit):
        train(
            tmp_path / "parts",
            bad,
            max_consecutive_bad=3,
            hooks=[At(stop, lambda: os.kill(os.getpid(), signal.SIGTERM))],
        )
    parts = train(tmp_path / "parts", bad, max_consecutive_bad=3)
    assert kept_by(parts[0]) == kept_by(whole[0])
    assert parts[2].get_state() == whole[2].get_state()
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_interruptions_leave_the_checkpoint_that_a_row_of_bad_steps_goes_back_to(tmp_path):
    bad = {16, 17, 18}
    whole, *_ = train(tmp_path / "whole", bad, max_consecutive_bad=3)
    for stop in (12, 14):  # saves at 13 and 15, which an uninterrupted run does not have
        hook = At(stop, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            train(tmp_path / "parts", bad, max_consecutive_bad=3, keep=2, hooks=[hook])
    found = {entry.name for entry in (tmp_path / "parts" / "checkpoints").iterdir() if entry.name.isdecimal()}
    assert found == {"12", "15"}
    parts, *_ = train(tmp_path / "parts", bad, max_consecutive_bad=3, keep=2)
    assert kept_by(parts) == kept_by(whole) == kept_by(descend(start(), [*range(1, 13), 19, 20]))


def test_a_skipped_step_ends_the_run_unless_that_is_dealt_with():
    with pytest.raises(RunFailed, match=r"loss and grad_norm not finite at step 2 \("):
        fit(start(), STEP, Batches({2}), steps=5)


def test_what_must_be_finite_in_a_state():
    def found(**parts):
        return find_nonfinite(start().replace(**parts))

    assert found() == found(step=jnp.int32(3), state={"low": jnp.array([-math.inf, 1]), "n": jnp.int32(1)}) == []
    assert found(opt_state=jnp.array([math.inf])) == []
    assert found(params={"w": jnp.array([1, math.inf])}) == ["params/w"]
    nan = jnp.array([0, math.nan])
    assert sorted(found(ema=nan, opt_state={"mu": nan}, state=(nan,))) == ["ema", "opt_state/mu", "state/0"]


def test_wrong_use_is_refused():
    with pytest.raises(UsageError, match="skip_nonfinite is for a train step"):
        skip_nonfinite(build_eval_step(objective))
    with pytest.raises(UsageError, match=r"max_consecutive_bad of at least 1 .* got 0 and 3"):
        BadSteps(max_consecutive_bad=0)


def test_outcomes():
    one, zero = (1.0, 1.0), (0.0, 1.0)
    assert outcome({"loss": one}) == "done"
    assert outcome({"skipped": zero, "overflow": zero}) == "done"
    assert outcome({"skipped": one}) == outcome({"skipped": one, "overflow": zero}) == "skipped"
    assert outcome({"skipped": one, "overflow": one}) == "overflow"


def test_a_skipped_step_keeps_every_field_of_the_state_that_a_step_changes():
    fields = {field.name for field in dataclasses.fields(start())}
    # `Precision.scaled` looks after the loss scale, and a step changes neither key nor frozen.
    assert fields == {*KEPT, "step", "key", "frozen", "loss_scale"}
