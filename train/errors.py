"""The two errors of a run, and checks of counts and names."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable
from typing import Any


class UsageError(ValueError):
    """An error that the user can fix; the message says what was expected, what was given and what to do."""


class RunFailed(RuntimeError):
    """A run that cannot continue (a loss that is not finite, a lost device); everything saved so far is intact."""


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A setting that counts something, as an int.

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


def check_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns a known name; the error for an unknown one suggests the closest.

    >>> check_name("optimizer", "adam", ["adam", "sgd"])
    'adam'
    >>> check_name("optimizer", "adamm", ["adam", "sgd"])
    Traceback (most recent call last):
    train.errors.UsageError: unknown optimizer 'adamm', did you mean 'adam'? Choose one of: adam, sgd.
    """
    known = list(known)
    if name in known:
        return name
    close = difflib.get_close_matches(str(name).lower(), known, n=1)
    hint = f", did you mean {close[0]!r}?" if close else "."
    raise UsageError(f"unknown {kind} {name!r}{hint} Choose one of: {', '.join(known)}.")
