"""`fit` and its hooks: which step they see, how a run ends well, and how it ends badly."""

import dataclasses
import itertools
import math
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.errors import RunFailed, UsageError
from train.hooks import EarlyStopping, Evaluate, StopTraining, run_evaluation
from train.loop import fit
from train.objective import Term
from train.records.metrics_log import MetricsWriter, read_metrics
from train.records.progress import Progress
from train.step import build_eval_step


@dataclasses.dataclass(frozen=True)
class Count:
    """A state that only counts."""

    step: int


def counting(state, batch):
    """A step with the batch as its loss."""
    return Count(state.step + 1), {"loss": (batch, 1.0), "grad_norm": (1.0, 1.0), "half": (batch, 2.0)}


class Recorder:
    def __init__(self, every, log=None, name="", saves=False):
        self.every, self.name, self.saves = every, name, saves
        self.log = [] if log is None else log

    def __call__(self, step, state, metrics):
        assert state.step == step
        self.log.append((self.name, step) if self.name else (step, metrics["loss"], metrics["half"]))


def test_hooks_see_their_steps_and_the_last():
    hook = Recorder(every=4)
    state = fit(Count(0), counting, itertools.count(10.0), steps=10, hooks=[hook])
    assert state == Count(10)
    assert hook.log == [(4, 13.0, 6.5), (8, 17.0, 8.5), (10, 19.0, 9.5)]


def test_a_restored_state_goes_on():
    hook = Recorder(every=4)
    data = itertools.count(0.0)
    assert fit(Count(7), counting, data, steps=10, hooks=[hook]) == Count(10)
    assert [entry[0] for entry in hook.log] == [8, 10]
    assert next(data) == 3.0


@pytest.mark.parametrize("start", [10, 11])
def test_nothing_is_left_to_do(start):
    hook = Recorder(every=1)
    assert fit(Count(start), counting, iter(()), steps=10, hooks=[hook]) == Count(start)
    assert hook.log == []


class Fetched:
    """A number that notes when the host asks for it."""

    def __init__(self, value, log, entry):
        self.value, self.log, self.entry = value, log, entry

    def __array__(self, dtype=None, copy=None):
        return np.asarray(float(self), dtype)

    def __float__(self):
        self.log.append(self.entry)
        return self.value


def test_metrics_are_fetched_while_the_next_step_runs(monkeypatch):
    monkeypatch.setattr("train.loop._must_wait", lambda: False)
    log = []

    def step(state, batch):
        log.append(("start", state.step + 1))
        return Count(state.step + 1), {"loss": (Fetched(1.0, log, ("fetch", state.step + 1)), 1.0)}

    fit(Count(0), step, itertools.repeat(0), steps=3)
    first = [entry for index, entry in enumerate(log) if entry not in log[:index]]
    assert first == [("start", 1), ("start", 2), ("fetch", 1), ("start", 3), ("fetch", 2), ("fetch", 3)]


def test_saving_hooks_come_last():
    log = []
    hooks = [Recorder(2, log, "save", saves=True), Recorder(2, log, "write"), Recorder(1, log, "watch")]
    fit(Count(0), counting, itertools.repeat(1.0), steps=2, hooks=hooks)
    assert log == [("watch", 1), ("write", 2), ("watch", 2), ("save", 2)]


class Saver(Recorder):
    directory = "runs/a"
    latest_step = None

    def __call__(self, step, state, metrics):
        super().__call__(step, state, metrics)
        self.latest_step = step


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("broken", [7, 8])  # with and without hooks due at that step
def test_loss_that_is_not_finite_is_never_saved(monkeypatch, wait, value, broken):
    monkeypatch.setattr("train.loop._must_wait", lambda: wait)
    saver = Saver(every=4, name="save", saves=True)
    writer = Recorder(every=2, name="write")
    losses = itertools.chain([1.0] * (broken - 1), [value], itertools.repeat(1.0))
    message = (
        rf"loss not finite at step {broken} \(loss = {value}, grad_norm = 1, half = {value}\); .* step 4 in runs/a"
    )
    with pytest.raises(RunFailed, match=message):
        fit(Count(0), counting, losses, steps=20, hooks=[saver, writer])
    assert saver.log == [("save", 4)]
    assert writer.log == [("write", 2), ("write", 4), ("write", 6)]


def test_gradient_that_is_not_finite_ends_the_run_unless_allowed():
    def step(state, batch):
        return Count(state.step + 1), {"loss": (1.0, 1.0), "grad_norm": (math.inf, 1.0)}

    with pytest.raises(RunFailed, match=r"grad_norm not finite at step 1 .*no checkpoint was saved"):
        fit(Count(0), step, itertools.repeat(0), steps=3)
    assert fit(Count(0), step, itertools.repeat(0), steps=3, finite=["loss"]) == Count(3)


def test_an_empty_term_does_not_end_the_run():
    def step(state, batch):
        return Count(state.step + 1), {"loss": (0.0, 1.0), "rare": (0.0, 0.0)}

    assert fit(Count(0), step, itertools.repeat(0), steps=3) == Count(3)


def test_data_that_end_early():
    with pytest.raises(UsageError, match="ended after 3 batches, but 5 were needed to reach step 7; repeat"):
        fit(Count(2), counting, [1.0, 2.0, 3.0], steps=7)


@pytest.mark.parametrize("hook", [lambda *_: None, Recorder(0), Recorder(True), Recorder(1.5), "text"])
def test_a_hook_without_a_valid_interval(hook):
    with pytest.raises(UsageError, match="an integer `every` of at least 1"):
        fit(Count(0), counting, [1.0], steps=1, hooks=[hook])


class Stopper(Recorder):
    def __call__(self, step, state, metrics):
        super().__call__(step, state, metrics)
        raise StopTraining("enough")


def test_a_stop_makes_the_step_the_last_one(capsys):
    log = []
    hooks = [
        Recorder(4, log, "save", saves=True),
        Recorder(4, log, "write"),
        Stopper(3, log, "stop"),
        Recorder(3, log, "other"),
    ]
    assert fit(Count(0), counting, itertools.repeat(1.0), steps=10, hooks=hooks) == Count(3)
    assert log == [("stop", 3), ("other", 3), ("write", 3), ("save", 3)]
    assert "training ends after step 3: enough" in capsys.readouterr().err


def stop_step(values, **options):
    hook = EarlyStopping("loss", every=1, **options)
    return fit(Count(0), counting, values, steps=len(values), hooks=[hook]).step, hook


def test_early_stopping():
    # Best at step 2, then three checks without a better one.
    step, hook = stop_step([3.0, 2.0, 2.5, 2.0, 2.6, 1.0], patience=3)
    assert (step, hook.best, hook.stopped) == (5, 2.0, True)
    assert fit(Count(step), counting, itertools.repeat(0.0), steps=9, hooks=[hook]) == Count(5)  # it stays stopped
    assert stop_step([3.0, 2.0, 2.5, 2.0, 2.6, 1.0], patience=4)[0] == 6
    assert stop_step([1.0, 2.0, 1.5, 3.0, 2.9, 2.8], patience=2, mode="max")[0] == 6
    assert stop_step([3.0, 2.9, 2.8, 2.7, 1.0], patience=3, min_delta=0.5)[0] == 4


def test_early_stopping_never_takes_nan_for_the_best():
    hook = EarlyStopping("accuracy", patience=2, every=1)
    hook(1, None, {"accuracy": math.nan})
    hook(2, None, {"accuracy": 3.0})
    assert (hook.best, hook.waited) == (3.0, 0)
    hook(3, None, {"accuracy": math.nan})
    with pytest.raises(StopTraining):
        hook(4, None, {"accuracy": math.nan})


def test_early_stopping_misused():
    with pytest.raises(UsageError, match="patience"):
        EarlyStopping("loss", patience=0, every=1)
    with pytest.raises(UsageError, match="expected a metric among accuracy, got 'los'"):
        EarlyStopping("los", patience=1, every=1)(1, None, {"accuracy": 1.0})
    source = Evaluate(lambda state, batch: {"mse": (1.0, 1.0)}, lambda: [0], every=2)
    source(2, None, {})
    with pytest.raises(UsageError, match="at step 3 found the evaluation of step 2"):
        EarlyStopping("mse", patience=1, every=1, source=source)(3, None, {})


def test_early_stopping_on_the_evaluation(tmp_path):
    values = iter([0.5, 0.4, 0.6, 0.7])
    evaluate = Evaluate(lambda state, batch: {"mse": (next(values), 1.0)}, lambda: [0], every=2)
    stopping = EarlyStopping("mse", patience=2, every=2, source=evaluate)
    state = fit(Count(0), counting, itertools.repeat(1.0), steps=20, hooks=[evaluate, stopping])
    assert state == Count(8)


def test_evaluation_divides_once_over_all_batches(tmp_path):
    generator = np.random.default_rng(1)
    sizes = [5, 5, 2]
    batches = [{"x": generator.normal(size=n), "valid": generator.random(n) < 0.5} for n in sizes]
    batches[1]["valid"][:] = False
    step = build_eval_step(lambda p, b, ctx: {"mse": Term(b["x"] ** 2, b["valid"]), "mean": Term(b["x"])})

    class State:
        step, params, opt_state, key = jnp.int32(0), {}, (), jax.random.key(0)
        ema = frozen = state = None

    writer = MetricsWriter(tmp_path)
    evaluate = Evaluate(
        step,
        lambda: iter(batches),
        every=5,
        writer=writer,
        split="test",
        loss_weights={"mse": 2.0, "mean": lambda step: step / 10},
        derive=lambda sums: {"rms": math.sqrt(sums["mse"][0] / sums["mse"][1])},
    )
    evaluate(5, State, {"loss": 1.0})
    x = np.concatenate([b["x"] for b in batches])
    valid = np.concatenate([b["valid"] for b in batches])
    mse, mean = np.mean(x[valid] ** 2), np.mean(x)
    expected = {"mse": mse, "mean": mean, "loss": 2 * mse + 0.5 * mean, "rms": np.sqrt(mse)}
    assert evaluate.latest == pytest.approx(expected, rel=1e-6)
    assert read_metrics(tmp_path) == [{"step": 5, "split": "test", "values": evaluate.latest}]
    evaluate(10, State, {})  # a fresh pass
    assert evaluate.latest["mse"] == pytest.approx(mse, rel=1e-6)


def test_evaluation_refuses_what_would_be_wrong():
    with pytest.raises(UsageError, match="at least one batch"):
        run_evaluation(lambda state, batch: {}, None, [])
    with pytest.raises(UsageError, match="give the loss_weights to Evaluate"):
        Evaluate(lambda state, batch: {"loss": (1.0, 1.0)}, lambda: [0], every=1)(1, None, {})


class Signal(Recorder):
    def __init__(self, step, number):
        super().__init__(step)
        self.number = number

    def __call__(self, step, state, metrics):
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_after_saving(capsys, number, code):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    saver, writer = Saver(100, name="save", saves=True), Recorder(4, name="write")
    with pytest.raises(SystemExit) as error:
        fit(Count(0), counting, itertools.repeat(1.0), steps=100, hooks=[Signal(7, number), writer, saver])
    assert error.value.code == code
    assert saver.log == [("save", 8)]  # the signal came while the hooks of step 7 ran
    assert writer.log == [("write", 4), ("write", 8)]
    assert f"stopped by {signal.Signals(number).name} after step 8: saved step 8 in runs/a" in capsys.readouterr().err
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


def test_an_interruption_adds_no_line_of_its_own():
    writer = Recorder(50, name="write")
    with pytest.raises(SystemExit):
        fit(Count(0), counting, itertools.repeat(1.0), steps=100, hooks=[Signal(7, signal.SIGTERM), writer])
    assert writer.log == []


def test_a_second_ctrl_c_acts_at_once():
    class Twice(Recorder):
        def __call__(self, step, state, metrics):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(Count(0), counting, itertools.repeat(1.0), steps=100, hooks=[Twice(3)])


def test_fit_works_in_a_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(Count(0), counting, itertools.repeat(1.0), steps=3)))
    thread.start()
    thread.join()
    assert results == [Count(3)]


class Terminal:
    def __init__(self, tty):
        self.tty, self.text = tty, ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return self.tty


def test_progress_in_a_log_is_a_line_now_and_then():
    now = [0.0]
    stream = Terminal(tty=False)
    with Progress(100, label="pretrain", stream=stream, interval=15, clock=lambda: now[0]) as progress:
        for step in range(1, 21):
            now[0] += 10 if step == 1 else 2  # the first step compiles
            progress.update(step, {"loss": 2.5} if step == 3 else None)
    # At 16 s step 4 is done (3 steps in 6 s since the first, so 96 take 192 s), at 32 s step 12 (11 in 22 s), ...
    assert stream.text.splitlines() == [
        "pretrain: step 4/100 (4%), 0.5 steps/s, 0:03:12 left, loss 2.5",
        "pretrain: step 12/100 (12%), 0.5 steps/s, 0:02:56 left, loss 2.5",
        "pretrain: step 20/100 (20%), 0.5 steps/s, 0:02:40 left, loss 2.5",
    ]


@pytest.mark.parametrize(
    ("steps", "total", "lines"),
    [
        # The first step takes 10 s, the others 2 s.
        (range(1, 4), 3, ["pretrain: step 3/3 (100%), 0.5 steps/s, 0:00:14 in all, loss 2.5"]),
        ([1], 1, ["pretrain: step 1/1 (100%), 0:00:10 in all, loss 2.5"]),
        (range(1, 4), 9, ["pretrain: step 3/9 (33%), 0.5 steps/s, 0:00:12 left, loss 2.5"]),  # it was ended early
        ([1], 9, ["pretrain: step 1/9 (11%), loss 2.5"]),
        # A line is due at 16 s, and is not said twice.
        (range(1, 5), 4, ["pretrain: step 4/4 (100%), 0.5 steps/s, 0:00:16 in all, loss 2.5"]),
        ([], 4, []),
    ],
)
def test_progress_in_a_log_says_the_last_step(steps, total, lines):
    now = [0.0]
    stream = Terminal(tty=False)
    with Progress(total, label="pretrain", stream=stream, interval=16, clock=lambda: now[0]) as progress:
        for step in steps:
            now[0] += 10 if step == 1 else 2
            progress.update(step, {"loss": 2.5})
        now[0] += 0.25
    assert stream.text.splitlines() == lines


def test_a_short_training_says_its_last_step(capsys):
    fit(Count(0), counting, itertools.count(1.0), steps=3, label="pretrain")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pretrain: step 3/3 (100%), ")
    assert line.endswith(" in all, loss 3, grad_norm 1, half 1.5")
    fit(Count(0), counting, itertools.count(1.0), steps=3, progress=False)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar():
    stream = Terminal(tty=True)
    with Progress(10, start=4, label="pretrain", stream=stream) as progress:
        for step in range(5, 11):
            progress.update(step, {"loss": step / 4})
    assert "pretrain" in stream.text
    assert "10/10" in stream.text
    assert "loss 2.5" in stream.text


def test_progress_can_be_silent():
    stream = Terminal(tty=True)
    with Progress(10, stream=stream, enabled=False) as progress:
        progress.update(10, {"loss": 1.0})
    assert stream.text == ""
