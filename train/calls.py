"""Several steps per call, for steps that take less time than launching a program.

state = fit(state, step, data, steps=10_000, steps_per_call=100)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.metrics import Metrics
from train.parallel import Step, scanned


@functools.lru_cache(maxsize=16)  # a study trains many networks by one step, and compiles it once
def scan_call(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Compiles a step into a function that makes several steps; a step from `data_parallel` does so itself."""
    if hasattr(step, "scanned"):
        found: Callable[[Any, Any], Any] = step.scanned()
        return found
    plain = Step(lambda state, batch, sync: step(state, batch), trains=True)
    return jax.jit(scanned(plain))


def stack_batches(batches: Sequence[Any]) -> Any:
    """Batches `[B, ...]` as one `[B, steps, ...]`."""
    on_host = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batches[0]))
    return jax.tree.map(lambda *leaves: (np if on_host else jnp).stack(leaves, 1), *batches)


@dataclasses.dataclass(frozen=True)
class Call:
    """The batches and the metrics of one call."""

    first: int
    """Number of its first step."""
    batches: Sequence[Any]
    metrics: Any

    @functools.cached_property
    def fetched(self) -> Metrics:
        """The metrics on the host."""
        return dict(jax.device_get(self.metrics))

    def steps(self, finite: Sequence[str]) -> list[tuple[int, Any]]:
        """Number and metrics of the steps to examine: the last, or all if any was bad."""
        count = len(self.batches)
        if count == 1:
            return [(self.first, self.metrics)]
        sums = [self.fetched[name][0] for name in finite if name in self.fetched]
        skipped = self.fetched["skipped"][0] if "skipped" in self.fetched else 0
        is_good = not np.any(skipped) and all(np.isfinite(values).all() for values in sums)
        return [
            (self.first + i, {name: (total[i], weight[i]) for name, (total, weight) in self.fetched.items()})
            for i in range(count - 1 if is_good else 0, count)
        ]


class Calls:
    """The calls of a training, one after the other.

    Args:
        state: The state before the first.
        step: The step.
        memory: Explains an out-of-memory error.
        finite: Metrics that have to be finite.
        look: Called with the number and metrics of a step; returns whether to go back to a checkpoint.
        roll_back: Called with that number and the state; returns the state to continue with. None if `look` never asks.

    Attributes:
        state: The state after the last call.
        latest: Metrics of the last step examined.
    """

    def __init__(
        self,
        state: Any,
        step: Callable[[Any, Any], Any],
        memory: Any,
        finite: Sequence[str],
        look: Callable[[int, Any], bool],
        roll_back: Callable[[int, Any], Any] | None,
    ) -> None:
        self.state, self.latest = state, dict[str, Any]()
        self._step, self._memory, self._finite, self._look, self._roll_back = step, memory, finite, look, roll_back

    def make(self, first: int, batches: Sequence[Any]) -> Call:
        """Makes the steps of these batches, starting with number `first`."""
        self._memory.expect(self.state, batches[0])
        if len(batches) == 1:
            self.state, metrics = self._step(self.state, batches[0])
        else:
            self.state, metrics = scan_call(self._step)(self.state, stack_batches(batches))
        return Call(first, batches, metrics)

    def check_metrics(self, call: Call) -> bool:
        """Examines the steps of a call. After a return to a checkpoint, repeats the later steps of the call."""
        for number, metrics in call.steps(self._finite):
            self.latest = metrics
            if self._look(number, metrics) and self._roll_back is not None:
                self.state = self._roll_back(number, self.state)
                if rest := call.batches[number + 1 - call.first :]:
                    self.check_metrics(self.make(number + 1, rest))
                return True
        return False
