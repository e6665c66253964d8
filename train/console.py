"""What a run says while it works. A message that nobody can be told is lost; it never ends the run.

Standard error may be a full disk, a pipe that nobody reads any more, or not there at all.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Writes a line, if it can be written.

    Args:
        text: The line.
        stream: Where to; standard error by default.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None:  # of a process started with standard error closed; `print` would take standard output for it
        return
    with unheard():
        print(text, file=stream, flush=True)


def warn(text: str) -> None:
    """Says what the user ought to know, though the run goes on."""
    say(f"warning: {text}")


def unheard() -> contextlib.suppress:
    """A context in which whatever a stream does not take is passed over.

    Besides OSError there is ValueError of a closed stream, RuntimeError of a signal's handler that writes into a line
    being written, and all that a stream made by somebody else may raise.

    >>> with unheard():
    ...     raise OSError("No space left on device")
    """
    return contextlib.suppress(Exception)


def _fill_closed() -> None:
    """Opens the null device in place of standard streams that are closed.

    The next files opened, a checkpoint say, would get their numbers, and with them what the runtime's libraries in C++
    write to standard error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(opened, True)


_fill_closed()
