"""The best checkpoint is kept in addition to the latest ones, also over interruptions, and is the one used."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.hooks import EarlyStopping, Evaluate
from train.loop import fit
from train.records.checkpoint import Checkpointer
from train.state import create_state

VALUES = [5.0, 2.0, 3.0, math.nan, 4.0, 1.0]  # of the evaluations after steps 2, 4, 6, ...


def fresh():
    return create_state({"w": jnp.zeros(())}, optax.sgd(1.0), key=0)


def step(state, batch):
    return state.replace(step=state.step + 1, params={"w": state.params["w"] + 1}), {"loss": (jnp.ones(()), 1.0)}


def validate(state, batch):
    return {"error": (VALUES[int(state.step) // 2 - 1], 1.0)}


def evaluate(writer=None):
    return Evaluate(validate, lambda: [0], every=2, writer=writer)


class Counter:
    """Endless batches that can be put back to a position."""

    def __init__(self):
        self.position = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.position += 1
        return np.zeros(1)

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def folders(directory):
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def run(directory, steps, patience=None):
    evaluation = evaluate()
    stopping = EarlyStopping("error", patience=patience, every=2, source=evaluation)
    best = Checkpointer(directory, every=2, keep=1, extras={"stopping": stopping}, best=stopping)
    with best as checkpoints:
        state = checkpoints.restore_latest(fresh()) or fresh()
        hooks = [evaluation, stopping, checkpoints]
        state = fit(state, step, itertools.repeat(np.zeros(1)), steps=steps, hooks=hooks, progress=False)
        found = checkpoints.read_best(fresh())
    return state, stopping, None if found is None else int(found.step)


@pytest.mark.parametrize("stops", [(), (2, 4, 6, 8), (3, 5, 7, 9)])
def test_the_best_is_kept_besides_the_latest(tmp_path, stops):
    for steps in stops:  # as interrupted there
        run(tmp_path, steps)
    state, stopping, best = run(tmp_path, 10)
    assert (int(state.step), stopping.best, stopping.best_step, best) == (10, 2.0, 4, 4)
    assert folders(tmp_path) == [4, 10]
    state, stopping, best = run(tmp_path, 12)
    assert (stopping.best, best, folders(tmp_path)) == (1.0, 12, [12])


def test_a_damaged_best_is_said_and_the_latest_stands_in(tmp_path, capsys):
    run(tmp_path, 8)
    next((tmp_path / "4").rglob("manifest.json")).write_text("{}")
    assert run(tmp_path, 8)[2] is None
    assert "the latest is used instead of the best" in capsys.readouterr().err
