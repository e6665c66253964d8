"""A run with two data workers, one of which is killed; as a module it prints how long the run then took."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys
import time
from typing import Any

from train.errors import RunFailed
from train.loop import fit


@dataclasses.dataclass(frozen=True)
class Count:
    """A state that only counts."""

    step: int


class Kill:
    """A hook that kills a worker process at its first call."""

    every = 3

    def __init__(self) -> None:
        self.when: float | None = None

    def __call__(self, step: int, state: Any, metrics: Any) -> None:
        if self.when is None:
            self.when = time.monotonic()
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)


def slow(index: int) -> float:
    time.sleep(0.02)
    return float(index)


def counting(state: Count, batch: float) -> tuple[Count, Any]:
    return Count(state.step + 1), {"loss": (batch, 1.0)}


def main() -> None:
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain reads flags when it starts processes
    options = grain.MultiprocessingOptions(num_workers=2, per_worker_buffer_size=1)
    batches = iter(grain.MapDataset.range(10**6).map(slow).to_iter_dataset().mp_prefetch(options))
    kill = Kill()
    try:
        fit(Count(0), counting, batches, steps=10**6, hooks=[kill], progress=False)
    except RunFailed as error:
        print(f"{time.monotonic() - (kill.when or 0):.2f} {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
