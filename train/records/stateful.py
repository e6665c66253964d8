"""Further state in a checkpoint: the position of a data iterator, the state of early stopping."""

from __future__ import annotations

import base64
import json
from typing import Any, Protocol

from train.errors import UsageError


class Stateful(Protocol):
    """An object with a state to save: a data iterator, early stopping."""

    def get_state(self) -> Any:
        """Returns its state: bytes or JSON types."""

    def set_state(self, state: Any, /) -> None:
        """Restores such a state."""


def require_stateful(name: str, thing: Any) -> Any:
    """Returns the object. Raises `UsageError` if it lacks `get_state` or `set_state`; None passes."""
    if thing is not None and not (hasattr(thing, "get_state") and hasattr(thing, "set_state")):
        raise UsageError(
            f"expected {name} with get_state and set_state (a Grain iterator has them), got {type(thing).__name__}, "
            "which cannot be restored to a position: a resumed run would see other data"
        )
    return thing


def encode(name: str, state: Any) -> dict[str, Any]:
    """Encodes bytes or JSON types as JSON. Raises `UsageError` for values that JSON would change."""
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
    """Inverts `encode`.

    >>> decode(encode("iterator", b"ab")), decode(encode("iterator", {"position": 3}))
    (b'ab', {'position': 3})
    """
    return base64.b64decode(saved["bytes"]) if "bytes" in saved else saved["json"]
