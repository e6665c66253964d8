"""Times of programs that run in turns, with the rounds left out in which the machine itself was slow."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_REST = 0.25
"""Seconds before a run is timed: results are ready before the memory of their program is given back, which for a plain
form takes the kernel up to a tenth of a second, in which ours would run."""

_STEADY = 1.15
"""A machine is slow when the probe takes this many times as long as it did at its fastest."""


@dataclasses.dataclass(frozen=True)
class Round:
    """One run of each program, in seconds."""

    seconds: tuple[float, ...]
    slowness: float
    """The slowest probe before and after any of its runs, in seconds."""


class Probe:
    """How fast the machine is now: seconds that some products take which are always the same.

    A machine may have speeds of its own for seconds on end, whatever runs on it: a virtual machine whose processors are
    now near to each other and now far, a clock that falls as the chip warms, a neighbour. Products whose
    blocks are passed from core to core feel all of these. It waits so many seconds in all, its patience.
    """

    def __init__(self, patience: int) -> None:
        self._operands = (jnp.ones((1024, 128)), jnp.ones((128, 1024)))
        self._products = jax.jit(_products)
        self.fastest = float("inf")
        self.patience = patience
        for _ in range(10):
            self()

    def __call__(self) -> float:
        """The seconds that it takes now."""
        taken = min(self._once() for _ in range(4))
        self.fastest = min(self.fastest, taken)
        return taken

    def wait(self) -> None:
        """Return when the machine is near its fastest, or patience is at an end."""
        while self.patience > 0 and self.is_slow(self()):
            time.sleep(1)
            self.patience -= 1

    def is_slow(self, taken: float) -> bool:
        """Whether the machine was not near its fastest in a probe that took so long."""
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
    """So many rounds of all programs, the order turning round, and how many more were left out.

    Each program is run once before. A round does not begin while the machine is slow, unless that lasts; one in which
    it became so is repeated, until there are as many as asked for or twice as many have been run. Then those on the
    fastest machine are given. What is left out is decided by the probe alone, which knows nothing of the programs'
    times.
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
