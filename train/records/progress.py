"""Progress of a long loop: a bar on a terminal, otherwise occasional lines with the remaining time."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import tqdm

from train.console import say, unheard


class Progress:
    """Shows the progress and the remaining time of a loop.

    On a terminal it is a bar. Elsewhere (a log file, a notebook, CI) it prints at most one line per `interval` seconds,
    and one at the end.

    Args:
        total: Number of steps at the end.
        start: Number of steps done before.
        label: Name of the loop.
        stream: Stream to write to; standard error by default.
        interval: Seconds between two lines.
        clock: Returns the time in seconds.
        enabled: If False, nothing is shown.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        label: str = "",
        stream: TextIO | None = None,
        interval: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        enabled: bool = True,
    ) -> None:
        self._total, self._label, self._interval, self._clock = total, label, interval, clock
        self._stream = stream or sys.stderr
        self._enabled = enabled and self._stream is not None
        self._text = ""
        self._done = self._told = start  # the current step, and the step of the last line
        self._began = self._printed = self._updated = clock()
        self._first: tuple[int, float] | None = None  # the rate excludes the first step, which compiles
        self._bar: Any = None
        with unheard():
            if self._enabled and self._stream.isatty():
                self._bar = tqdm.tqdm(
                    total=total, initial=start, desc=label or None, file=self._stream, dynamic_ncols=True, leave=True
                )

    def update(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        """Reports that `done` steps are done; `metrics` are shown until the next update of them."""
        if not self._enabled:
            return
        if metrics is not None:
            self._text = ", ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:4])
        if self._bar is not None:
            with unheard():
                if metrics is not None:
                    self._bar.set_postfix_str(self._text, refresh=False)
                self._bar.update(done - self._done)
        self._done = done
        self._updated = now = self._clock()
        if self._first is None:
            self._first = (done, now)
        elif self._bar is None and now - self._printed >= self._interval:
            self._tell()

    def _tell(self) -> None:
        """Writes a line."""
        now = self._updated
        self._printed, self._told = now, self._done
        steps, since = self._first or (self._done, now)
        rate = (self._done - steps) / max(now - since, 1e-9)
        parts = [f"step {self._done}/{self._total} ({self._done / self._total:.0%})"]
        if rate:
            parts.append(f"{rate:.3g} steps/s")
        if self._done >= self._total:
            parts.append(f"{_time(now - self._began)} in all")
        elif rate:
            parts.append(f"{_time((self._total - self._done) / rate)} left")
        prefix = f"{self._label}: " if self._label else ""
        say(prefix + ", ".join([*parts, self._text] if self._text else parts), self._stream)

    def close(self) -> None:
        """Ends the line of the bar, or writes the last line."""
        if self._bar is not None:
            with unheard():
                self._bar.close()
        elif self._enabled and self._done > self._told:
            self._tell()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _time(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=round(seconds))
