"""A small training, run by one process or by several: `python -m tests.train.support.two_processes PLAN.json INDEX`.

The plan is a JSON object: folder, port, count, steps, split, and `harm`, what goes wrong: {"signal": "SIGTERM",
"step": 3, "index": 1} or, for processes with different configs, {"config": 1}; start_seconds, to wait for the others.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.study.devices import ProcessConfig, joined
from train import (
    Checkpointer,
    MetricsWriter,
    Term,
    build_train_step,
    create_state,
    data_parallel,
    fit,
    gather,
    make_mesh,
    process_rows,
    shard_state,
)
from train.devices.processes import check_same, on_process_zero
from train.errors import RunFailed, UsageError
from train.files import is_writer

ROWS, WIDTH = 8, 64
OPTIMIZER = optax.adam(0.01)


class Config:
    """As an experiment's: only the processes count."""

    def __init__(self, processes):
        self.processes = processes


class Batches:
    """The rows of this process of an endless sequence of batches, with a position."""

    def __init__(self, rows):
        self.rows, self.position = rows, 0

    def __iter__(self):
        return self

    def __next__(self):
        rng = np.random.default_rng(self.position)
        self.position += 1
        return {"x": rng.normal(size=(ROWS, WIDTH)).astype(np.float32)[self.rows]}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def initial_state():
    return create_state({"w": jax.random.normal(jax.random.key(0), (WIDTH, WIDTH)) / 8}, OPTIMIZER, key=1)


def objective(params, batch, ctx):
    noise = jax.random.normal(ctx.key, batch["x"].shape) * 0.1
    error = jnp.tanh((batch["x"] + noise) @ params["w"]) - batch["x"]
    return {"square": Term(jnp.sum(error**2, -1), batch["x"][:, 0] > 0)}


class Harm:
    """A hook that sends this process a signal after a step."""

    every = 1

    def __init__(self, harm, index):
        self.harm = harm if harm.get("index", index) == index else {}

    def __call__(self, step, state, metrics):
        if self.harm and step == self.harm.get("step"):
            os.kill(os.getpid(), getattr(signal, self.harm["signal"]))
        if self.harm and step > self.harm.get("step", step):
            time.sleep(0.02)  # else these tiny steps are over before the others have heard


def train(folder, steps, split="fsdp", devices=None, harm=None, index=0):
    """Trains on two devices, the parameters split over a mesh axis or whole under a backend; returns them."""
    body = build_train_step(objective, OPTIMIZER, loss_weights={"square": 1.0}, accumulate=2)
    if split in ("pmap", "shard_map", "jit"):
        mesh, state, step = None, initial_state(), data_parallel(body, split, devices)
    else:
        mesh = make_mesh(**{split: 2}, devices=devices)
        state = shard_state(initial_state, mesh, [("w", (split,))])
        step = data_parallel(body, mesh=mesh)
    batches = Batches(process_rows(ROWS, mesh))
    assert len(batches.rows) == ROWS // (1 if split == "tensor" else jax.process_count())
    on_process_zero(lambda: folder.mkdir(exist_ok=True))
    with MetricsWriter(folder, every=20) as writer, Checkpointer(folder / "ckpt", every=100, iterator=batches) as saver:
        state = saver.restore_latest(state) or state
        writer.truncate_after(int(state.step))
        hooks = [writer, Harm(harm or {}, index), saver]
        state = fit(state, step, batches, steps=steps, hooks=hooks, progress=False)
    return gather(state.params)["w"], state.params["w"]


def main(plan, index):
    """Joins, trains, and lets process 0 write what came out."""
    waiting = {"heartbeat_seconds": 10, "start_seconds": plan.get("start_seconds", 300)}
    processes = ProcessConfig(True, f"localhost:{plan['port']}", plan["count"], index, **waiting)
    folder, harm = Path(plan["folder"]), plan.get("harm", {})
    with joined(Config(processes)):
        check_same({"config": {"lr": harm.get("config", 0) * index}, "data": "same"})
        whole, part = train(folder, plan["steps"], plan.get("split", "fsdp"), harm=harm, index=index)
        print(f"process {index} holds {part.addressable_shards[0].data.nbytes} of {part.nbytes} bytes", file=sys.stderr)
        if is_writer():
            np.save(folder / "w.npy", whole)


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]))
    except (UsageError, RunFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
