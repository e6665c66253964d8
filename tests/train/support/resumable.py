"""A small run that uses all that a resumed run has to restore; as a module with WORKDIR and KILL_AT it dies there."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.loop import fit
from train.objective import Context, Term
from train.records.checkpoint import Checkpointer
from train.records.metrics_log import MetricsWriter
from train.state import TrainState, create_state
from train.step import build_train_step

STEPS = 20


class ArrayIterator:
    """Endless batches in a shuffled order that depends on the position alone."""

    def __init__(self, x: np.ndarray, y: np.ndarray, size: int) -> None:
        self.x, self.y, self.size, self.position = x, y, size, 0
        self.seen: list[list[int]] = []

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        rows = np.random.default_rng(self.position).choice(len(self.x), self.size, replace=False)
        self.position += 1
        self.seen.append(rows.tolist())
        return {"x": self.x[rows], "y": self.y[rows]}

    def get_state(self) -> dict[str, Any]:
        return {"position": self.position}

    def set_state(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class BytesIterator(ArrayIterator):
    """The same with a state in bytes, as Grain's DataLoader has it."""

    def get_state(self) -> Any:
        return b"\x00\xff" + self.position.to_bytes(4, "big")

    def set_state(self, state: Any) -> None:
        self.position = int.from_bytes(state[2:], "big")


def arrays() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    x = generator.normal(size=(32, 3)).astype(np.float32)
    return x, (x @ np.array([1.0, -2.0, 0.5], np.float32) + 0.1).astype(np.float32)


def plain_iterator() -> ArrayIterator:
    return ArrayIterator(*arrays(), size=8)


def bytes_iterator() -> ArrayIterator:
    return BytesIterator(*arrays(), size=8)


def grain_iterator() -> Any:
    import grain

    x, y = arrays()
    dataset = grain.MapDataset.range(len(x)).seed(3).shuffle().repeat().batch(8)
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    return iter(dataset.map(lambda rows: {"x": x[rows], "y": y[rows]}).to_iter_dataset(options))


def objective(params: Any, batch: Any, ctx: Context) -> tuple[dict[str, Term], Any]:
    noisy = batch["x"] * jax.random.bernoulli(ctx.key, 0.8, batch["x"].shape)
    error = noisy @ params["w"] + params["b"] - batch["y"]
    counted = ctx.state["count"] + jnp.int32(len(batch["y"]))
    return {"mse": Term(error**2, weights=1), "mae": Term(jnp.abs(error), batch["y"] > 0)}, {"count": counted}


def optimizer() -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(0.05, STEPS))


def fresh_state(key: int = 5) -> TrainState:
    params = {"w": jnp.zeros(3), "b": jnp.zeros((), jnp.bfloat16)}
    return create_state(params, optimizer(), key=key, ema=True, state={"count": jnp.zeros((), jnp.int32)})


STEP_BODY = build_train_step(objective, optimizer(), loss_weights={"mse": 1.0}, accumulate=2, ema_decay=0.9)
STEP = jax.jit(STEP_BODY)


def run(
    workdir: Path,
    make_iterator: Callable[[], Any],
    *,
    hooks: tuple[Any, ...] = (),
    every: int = 6,
    step: Any = STEP,
    make_state: Callable[..., TrainState] = fresh_state,
    **options: Any,
) -> tuple[TrainState, Any]:
    """Starts the run or resumes it; returns the last state and the iterator."""
    workdir.mkdir(exist_ok=True)
    iterator = make_iterator()
    with Checkpointer(workdir / "checkpoints", every=every, iterator=iterator, **options) as checkpointer:
        state = checkpointer.restore_latest(make_state(key=6)) or make_state()
        with MetricsWriter(workdir, every=4) as writer:
            writer.truncate_after(int(state.step))
            state = fit(state, step, iterator, steps=STEPS, hooks=[checkpointer, writer, *hooks])
    return state, iterator


class At:
    """A hook that does something at one step."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.every, self._action = step, action

    def __call__(self, step: int, state: Any, metrics: Any) -> None:
        if step == self.every:
            self._action()


if __name__ == "__main__":
    kill = At(int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL))
    run(Path(sys.argv[1]), plain_iterator, hooks=(kill,))
