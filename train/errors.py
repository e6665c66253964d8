"""The two ways a run can end badly: the user can mend it, or the run itself failed."""

from __future__ import annotations

import operator
from typing import Any


class UsageError(ValueError):
    """Something the user can mend; the message says what was expected, what came and what to do."""


class RunFailed(RuntimeError):
    """A run that cannot go on (a loss that is not finite, a lost device); what was saved so far is intact."""


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A setting that counts something, as an int.

    Args:
        name: What it is called, for the message.
        value: A whole number of Python, NumPy or JAX.
        least: The smallest that is allowed.

    Returns:
        The number.

    Raises:
        UsageError: It is no whole number (2.0 and True are none), or too small.

    >>> check_count("every", 5)
    5
    >>> check_count("every", True)
    Traceback (most recent call last):
    train.errors.UsageError: expected every as a whole number of at least 1, got True
    """
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise UsageError(f"expected {name} as a whole number of at least {least}, got {value!r:.100}")
    return number
