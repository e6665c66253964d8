"""Fingerprints of data, and refusal of changed configs, data and number formats when a run is resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from train.console import say
from train.errors import UsageError
from train.files import differences

_SHOWN = 6


def fingerprint(data: Any) -> str:
    """A short identifier of a data set: 16 hexadecimal digits of SHA-256.

    Args:
        data: Any nesting of arrays, numbers, text, bytes and dataclasses, such as a data set in memory; for a larger
            one its name, version and file sizes.

    Returns:
        The digits: equal for equal structure, shapes, dtypes and values.

    >>> fingerprint({"x": np.arange(3)}) == fingerprint({"x": np.arange(3)})
    True
    >>> fingerprint({"x": np.arange(3)}) == fingerprint({"x": np.arange(3.0)})
    False
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(_plain(data))[0]:
        payload: Any
        if isinstance(leaf, str | bytes):
            kind, payload = type(leaf).__name__, leaf.encode(errors="surrogatepass") if isinstance(leaf, str) else leaf
        else:
            array = np.asarray(leaf)
            kind, payload = f"{array.dtype}{array.shape}", np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            if array.dtype.hasobject:
                raise UsageError(f"expected arrays, numbers, text and bytes, got {type(leaf).__name__} in the data")
        digest.update(f"{jax.tree_util.keystr(path)}:{kind}:{len(payload)}:".encode())
        digest.update(payload)
    return digest.hexdigest()[:16]


def _plain(data: Any) -> Any:
    """Dataclasses as dicts at any depth, and None as text, because None is not a leaf of a tree."""
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return {field.name: _plain(getattr(data, field.name)) for field in dataclasses.fields(data)}
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    return "None" if data is None else data


def refuse_changes(
    where: str, what: str, old: Any, new: Any, *, allowed: Collection[str] = (), ways_out: str = "use another directory"
) -> dict[str, tuple[Any, Any]]:
    """Refuses to resume a run with other values than it was started with, unless allowed.

    Args:
        where: The folder, for the message.
        what: The difference in words: "another config".
        old: JSON types.
        new: JSON types.
        allowed: Dotted names that may differ; "data" also allows all names that begin with "data.".
        ways_out: Other remedies, for the message.

    Returns:
        The allowed differences, as in `differences`; they are printed to stderr.
    """
    found = differences(old, new)
    refused = {name: pair for name, pair in found.items() if not is_allowed(name, allowed)}
    if refused:
        values = [f"{name} was {_text(was)} and is now {_text(now)}" for name, (was, now) in refused.items()]
        more = [f"and {len(values) - _SHOWN} more"] if len(values) > _SHOWN else []
        raise UsageError(
            f"{where} holds {what}: {'; '.join(values[:_SHOWN] + more)}; {ways_out}, "
            f"or accept the change by name: --allow-changed {','.join(refused)}"
        )
    for name, (was, now) in found.items():
        say(f"note: {where} continues with {name} changed from {_text(was)} to {_text(now)}")
    return found


def is_allowed(name: str, allowed: Collection[str]) -> bool:
    """Whether a dotted name or one of its groups is allowed.

    >>> is_allowed("data.name", {"data"}), is_allowed("dataset", {"data"})
    (True, False)
    """
    parts = name.split(".")
    return any(".".join(parts[:n]) in allowed for n in range(1, len(parts) + 1))


def _text(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
