"""The two ways a run can end badly: the user can mend it, or the run itself failed."""

from typing import Any

import numpy as np


class UsageError(ValueError):
    """Something the user can mend; the message says what was expected, what came and what to do."""


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise UsageError unless a value is a whole number from ``least`` up; True is none, and neither is 2.0.

    >>> check_whole("accumulate", 2.0, 1)
    Traceback (most recent call last):
    train.errors.UsageError: accumulate is 2.0, but must be a whole number from 1 up.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise UsageError(f"{name} is {value!r}, but must be a whole number from {least} up.")


class RunFailed(RuntimeError):
    """A run that cannot go on (a loss that is not finite, a lost device); what was saved so far is intact."""
