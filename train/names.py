"""One way to turn down a name nobody knows: say what was expected and which known name is close."""

import difflib
from collections.abc import Iterable

from train.errors import UsageError


def check_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns `name` if it is known, and else says which known name was probably meant.

    Args:
      kind: what the name stands for, for the message ("optimizer").
      name: the name that came in.
      known: all names that are right.

    Returns:
      `name` itself.

    Raises:
      UsageError: `name` is not among `known`.

    Example:
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
