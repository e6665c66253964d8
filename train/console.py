"""Messages of a run. One that cannot be written is lost and never ends the run.

Standard error may be on a full disk, a closed pipe, or missing.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Writes a line to a stream (standard error by default), if possible."""
    stream = sys.stderr if stream is None else stream
    if stream is None:  # standard error was closed at the start; `print` would use standard output instead
        return
    with unheard():
        print(text, file=stream, flush=True)


def warn(text: str) -> None:
    """Writes a warning."""
    say(f"warning: {text}")


def unheard() -> contextlib.suppress:
    """A context that ignores every error of writing to a stream.

    Not only OSError: a closed stream raises ValueError, a signal handler that interrupts a write RuntimeError, and a
    custom stream may raise anything.

    >>> with unheard():
    ...     raise OSError("No space left on device")
    """
    return contextlib.suppress(Exception)


def _fill_closed() -> None:
    """Opens the null device for closed standard streams.

    Otherwise the next file opened, such as a checkpoint, would get their number and with it what C++ libraries write to
    standard error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            os.set_inheritable(opened, True)


_fill_closed()
