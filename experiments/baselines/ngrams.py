"""Baselines for a language model, in bits per byte: interpolated Kneser-Ney n-grams over bytes, and xz."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from train.errors import UsageError

MAX_ORDER = 8
"""Longest n-gram: its bytes must fit into one 64-bit integer."""


@dataclass(frozen=True)
class Counts:
    """Counts of the n-grams of one length, and of their contexts (all bytes but the last).

    `grams` and `contexts` are sorted codes (see `codes`); `total` sums the counts of a context, `types` counts the
    distinct bytes seen after it. `discount` is subtracted from each count; this mass goes to the shorter context.
    """

    grams: np.ndarray
    count: np.ndarray
    contexts: np.ndarray
    total: np.ndarray
    types: np.ndarray
    discount: float


@dataclass(frozen=True)
class NGram:
    """An interpolated Kneser-Ney model over bytes (Kneser and Ney 1995; Chen and Goodman 1999).

    With c the counts of the longest n-grams, and for shorter ones the number of distinct bytes seen before them,

        p(w | h) = max(c(h w) - D, 0) / c(h) + D N(h) / c(h) * p(w | h without its first byte)

    where N(h) is the number of distinct bytes seen after h and D = n1 / (n1 + 2 n2), with n1 and n2 the numbers of
    n-grams seen once and twice. An unseen context has the probabilities of the shorter one; the lowest order is the
    uniform 1 / 256. Probabilities therefore sum to one over the 256 bytes, in every context.
    """

    levels: tuple[Counts, ...]

    def log2_probabilities(self, text: bytes) -> np.ndarray:
        """Returns log2 p of each byte given the preceding ones, float64 [bytes]; the first has no context."""
        p = np.full(len(text), 1 / 256)
        for length, level in enumerate(self.levels, 1):
            if length > len(text):
                break
            grams = codes(text, length)
            seen, place = _find(level.contexts, grams >> np.uint64(8))
            found, where = _find(level.grams, grams)
            count = np.where(found, level.count[where], 0)
            kept = np.maximum(count - level.discount, 0)
            mixed = (kept + level.discount * level.types[place] * p[length - 1 :]) / level.total[place]
            p[length - 1 :] = np.where(seen, mixed, p[length - 1 :])
        return np.log2(p)

    def bits_per_byte(self, text: bytes) -> float:
        """Returns the mean of -log2 p over all bytes of a text."""
        return float(-self.log2_probabilities(text).mean())

    def bits_of_parts(self, text: bytes, sizes: np.ndarray) -> list[list[float]]:
        """Returns bits and bytes of each part of a text; `sizes` are in bytes and sum to its length."""
        first = (np.cumsum(sizes) - sizes).astype(int)
        return np.stack([np.add.reduceat(-self.log2_probabilities(text), first), sizes], -1).tolist()


def train_ngrams(text: bytes, max_order: int) -> dict[int, NGram]:
    """Trains the models of all orders on a text.

    Args:
        text: The training text.
        max_order: Length of the longest n-gram, 1 to `MAX_ORDER`.

    Returns:
        The model of each order, 1 to `max_order`.

    Raises:
        UsageError: The order is out of range, or larger than the length of the text.
    """
    if not 1 <= max_order <= MAX_ORDER:
        raise UsageError(f"The order of the n-gram must be 1 to {MAX_ORDER}, but it is {max_order}.")
    if len(text) < max_order:
        raise UsageError(f"The training text has {len(text)} bytes, fewer than the order {max_order} of the n-gram.")
    models: dict[int, NGram] = {}
    lower: list[Counts] = []
    for order in range(1, max_order + 1):
        grams, count = np.unique(codes(text, order), return_counts=True)
        models[order] = NGram((*lower, _level(grams, count)))
        if order < max_order:
            # Continuation counts: the number of distinct bytes before each gram.
            longer = np.unique(codes(text, order + 1))
            suffixes, kinds = np.unique(longer & np.uint64(256**order - 1), return_counts=True)
            lower.append(_level(suffixes, kinds))
    return models


def score_orders(texts: Mapping[str, bytes], sizes: np.ndarray, max_order: int, metric: str) -> list[dict[str, Any]]:
    """Trains the models of all orders and scores them on the held-out texts.

    Args:
        texts: The training, validation and test text by name of the split.
        sizes: Bytes of each document of the test text.
        max_order: Length of the longest n-gram.
        metric: Name of the bits per byte of the test text.

    Returns:
        A row for each order: "order", bits per byte of "validation" and of the test text, bits and bytes of each of its
        documents, and whether the order is "chosen", the best on the validation text.
    """
    rows: list[dict[str, Any]] = []
    for order, model in train_ngrams(texts["train"], max_order).items():
        examples = model.bits_of_parts(texts["test"], sizes)
        held_out = {"validation": model.bits_per_byte(texts["validation"]), metric: model.bits_per_byte(texts["test"])}
        rows.append({"order": order, f"{metric} examples": examples, **held_out})
    best = min(row["validation"] for row in rows)
    return [row | {"chosen": row["validation"] == best} for row in rows]


def codes(text: bytes, length: int) -> np.ndarray:
    """Returns each window of `length` bytes as one integer, the last byte lowest; uint64 [bytes - length + 1].

    >>> [hex(code) for code in codes(b"abc", 2)]
    ['0x6162', '0x6263']
    """
    data = np.frombuffer(text, np.uint8).astype(np.uint64)
    count = len(data) - length + 1
    result = np.zeros(count, np.uint64)
    for offset in range(length):
        result = (result << np.uint64(8)) | data[offset : offset + count]
    return result


def _level(grams: np.ndarray, count: np.ndarray) -> Counts:
    contexts, first, types = np.unique(grams >> np.uint64(8), return_index=True, return_counts=True)
    once, twice = int(np.sum(count == 1)), int(np.sum(count == 2))
    # Without n-grams seen once the estimate would be 0, and unseen bytes would have probability 0.
    discount = once / (once + 2 * twice) if once else 0.5
    return Counts(grams, count, contexts, np.add.reduceat(count, first), types, discount)


def _find(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns whether each wanted code is among the sorted keys, and its index (some valid index if it is absent)."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return keys[place] == wanted, place


def xz_bits_per_byte(text: bytes, before: bytes = b"") -> float:
    """Returns the bits per byte of a text compressed by xz.

    Args:
        text: The text to compress.
        before: A text that the receiver already has. The size is then the size of both together minus the size of
            `before` alone. xz's window of 64 MiB covers all of it.

    Returns:
        Bits per byte.
    """

    def size(data: bytes) -> int:
        return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) if data else 0

    return 8 * (size(before + text) - size(before)) / len(text)
