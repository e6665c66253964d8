"""What is saved beside the training state: the position of a data iterator, the memory of early stopping."""

from __future__ import annotations

import base64
import json
from typing import Any, Protocol

from train.errors import UsageError


class Stateful(Protocol):
    """What can be saved beside the training state: a data iterator, early stopping."""

    def get_state(self) -> Any:
        """Its state: bytes, or something made of JSON types."""

    def set_state(self, state: Any, /) -> None:
        """Goes on from such a state."""


def stateful(name: str, thing: Any) -> Any:
    """The thing itself; one that is there and has no such state is refused with `UsageError`."""
    if thing is not None and not (hasattr(thing, "get_state") and hasattr(thing, "set_state")):
        raise UsageError(
            f"expected {name} with get_state and set_state (a Grain iterator has them), got {type(thing).__name__}, "
            "which cannot be put back to a position: a resumed run would see other data"
        )
    return thing


def encode(name: str, state: Any) -> dict[str, Any]:
    """Bytes or JSON as JSON; anything that JSON would change is refused with `UsageError`."""
    if isinstance(state, bytes):
        return {"bytes": base64.b64encode(state).decode()}
    try:
        exact = json.loads(json.dumps(state)) == state
    except (TypeError, ValueError, RecursionError):
        exact = False
    if not exact:
        raise UsageError(
            f"expected {name}.get_state() to give bytes or JSON types (lists, no tuples), got {state!r:.200}"
        )
    return {"json": state}


def decode(saved: dict[str, Any]) -> Any:
    """What `encode` was given.

    >>> decode(encode("iterator", b"ab")), decode(encode("iterator", {"position": 3}))
    (b'ab', {'position': 3})
    """
    return base64.b64decode(saved["bytes"]) if "bytes" in saved else saved["json"]
