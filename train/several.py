"""Several steps in one call: for models whose step is shorter than the call of a compiled program.

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

from train.parallel import Step, scanned


@functools.lru_cache(maxsize=16)  # a study trains many networks by one step, and compiles it once
def scan_call(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The compiled function that makes several steps of a step: of one from `data_parallel` in its own way."""
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
    """What one call was given and what it measured."""

    first: int
    """Number of its first step."""
    batches: Sequence[Any]
    metrics: Any

    @functools.cached_property
    def fetched(self) -> dict[str, tuple[Any, Any]]:
        """The metrics on the host."""
        return dict(jax.device_get(self.metrics))

    def steps(self, finite: Sequence[str]) -> list[tuple[int, Any]]:
        """Number and metrics of each step that is to be looked at: the last, and all if any was bad.

        Args:
            finite: Metrics that have to be finite.
        """
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
