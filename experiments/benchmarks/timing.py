"""Timing of alternating programs, without the rounds in which the machine itself was slow."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_REST = 0.25
"""Pause in seconds before a timed run. A result is ready before the memory of its program is freed, which takes the
kernel up to a tenth of a second after a plain form; without the pause our run would overlap with it."""

_STEADY = 1.15
"""The machine counts as slow if the probe takes more than this multiple of its fastest time."""


@dataclasses.dataclass(frozen=True)
class Round:
    """One run of each program, in seconds."""

    seconds: tuple[float, ...]
    slowness: float
    """The slowest probe before or after any of its runs, in seconds."""


class Probe:
    """Measures the current speed of the machine by the time of a fixed sequence of matrix products.

    The speed of a machine may change for seconds at a time: the host moves virtual processors, the clock falls as the
    chip warms up, or another tenant is busy. Products that pass blocks from core to core are sensitive to all of these.
    `patience` is the total number of seconds to wait.
    """

    def __init__(self, patience: int) -> None:
        self._operands = (jnp.ones((1024, 128)), jnp.ones((128, 1024)))
        self._products = jax.jit(_products)
        self.fastest = float("inf")
        self.patience = patience
        for _ in range(10):
            self()

    def __call__(self) -> float:
        """Returns the current time of the probe in seconds."""
        taken = min(self._once() for _ in range(4))
        self.fastest = min(self.fastest, taken)
        return taken

    def wait(self) -> None:
        """Waits until the machine is near its fastest speed, or the patience is used up."""
        while self.patience > 0 and self.is_slow(self()):
            time.sleep(1)
            self.patience -= 1

    def is_slow(self, taken: float) -> bool:
        """Whether this time of the probe means that the machine was slow."""
        return taken > _STEADY * self.fastest

    def _once(self) -> float:
        start = time.perf_counter()
        self._products(*self._operands).block_until_ready()
        return time.perf_counter() - start


def _products(a: jax.Array, b: jax.Array) -> jax.Array:
    def step(scale: jax.Array, _: None) -> tuple[jax.Array, None]:
        return ((a * scale) @ b)[0, 0] / a.shape[1], None  # 1 again: each product waits for the one before

    return lax.scan(step, jnp.ones(()), length=16)[0]


def in_turns(programs: Sequence[Callable[[], Any]], rounds: int, probe: Probe) -> tuple[list[Round], int]:
    """Returns the timed rounds of all programs, in alternating order, and the number of discarded rounds.

    Each program runs once before. A round waits while the machine is slow, until the patience is used up. A round in
    which the machine became slow is repeated, until there are enough rounds or twice as many have been run. The rounds
    with the fastest probes are returned. The selection depends only on the probe, never on the times of the programs.
    """
    for program in programs:
        jax.block_until_ready(program())
    taken: list[Round] = []
    while sum(not probe.is_slow(r.slowness) for r in taken) < rounds and len(taken) < 2 * rounds:
        probe.wait()
        taken.append(_round(programs, probe, backwards=len(taken) % 2 == 1))
    return sorted(taken, key=lambda r: r.slowness)[:rounds], max(len(taken) - rounds, 0)


def _round(programs: Sequence[Callable[[], Any]], probe: Probe, *, backwards: bool) -> Round:
    seconds = [0.0] * len(programs)
    probes = []
    order = range(len(programs))
    for k in reversed(order) if backwards else order:
        time.sleep(_REST)
        probes.append(probe())
        start = time.perf_counter()
        jax.block_until_ready(programs[k]())
        seconds[k] = time.perf_counter() - start
    time.sleep(_REST)
    probes.append(probe())
    return Round(tuple(seconds), max(probes))
