"""The two halves of each text as a pair, masked: for pretraining on texts without labels.

A text is cut at a random place in its middle third; both parts are [CLS] words [SEP], and a part that is too long is a
random span of it. Batch number n is a function of (seed, n), as in `experiments.data.bert`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grain
import jax
import numpy as np

from experiments.data.bert import READ, Batch, endless, host, masker
from experiments.data.tokenizers import CLS, PAD, SEP
from train.errors import UsageError

LEAST = 8
"""Minimum number of tokens of a text."""
MASK_RATE = 0.15
"""Fraction of the tokens to predict."""


@dataclass(frozen=True)
class Halves:
    """Maps a batch number and numbers of texts to a masked batch, inside the Grain pipeline."""

    texts: Sequence[np.ndarray]
    vocab_size: int
    seq_len: int
    seed: int

    def __call__(self, step: int, index: np.ndarray) -> Batch:
        """Returns batch number `step`: the first halves of the texts `index`, then the second ones."""
        rng = np.random.default_rng([self.seed, step])
        cut = [cut_in_two(self.texts[i], self.seq_len - 2, rng) for i in np.asarray(index)]
        tokens = pack([pair[half] for half in (0, 1) for pair in cut], self.seq_len)
        with jax.default_device(host()):
            masked = masker(self.vocab_size, MASK_RATE)(np.uint32(self.seed), np.uint32(step), tokens)
        return {name: np.asarray(value) for name, value in masked.items()} | {"valid": tokens != PAD}


def cut_in_two(ids: np.ndarray, room: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns two spans of at most `room` tokens, one from each side of a cut in the middle third."""
    third = len(ids) // 3
    cut = int(rng.integers(third, len(ids) - third + 1))
    first, second = (span(part, room, rng) for part in (ids[:cut], ids[cut:]))
    return first, second


def span(ids: np.ndarray, room: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a random span of at most `room` tokens.

    >>> span(np.array([7, 8]), 4, np.random.default_rng(0)).tolist()
    [7, 8]
    """
    start = int(rng.integers(0, max(0, len(ids) - room) + 1))
    return ids[start : start + room]


def pack(texts: Sequence[np.ndarray], seq_len: int) -> np.ndarray:
    """Returns the beginnings of texts as [CLS] ids [SEP] padding, int32 [N, seq_len].

    >>> pack([np.array([7, 8, 9])], 4).tolist()  # [CLS] is 2, [SEP] is 3
    [[2, 7, 8, 3]]
    """
    tokens = np.full((len(texts), seq_len), PAD, np.int32)
    for row, ids in zip(tokens, texts, strict=True):
        kept = ids[: seq_len - 2]
        row[: len(kept) + 2] = [CLS, *kept, SEP]
    return tokens


def half_batches(
    texts: Sequence[np.ndarray], vocab_size: int, *, batch_size: int, seq_len: int, seed: int = 0
) -> grain.DatasetIterator:
    """Returns endless batches; the iterator's `get_state` and `set_state` resume it exactly.

    Args:
        texts: The ids of each text; texts of fewer than `LEAST` tokens are left out.
        vocab_size: Size of the vocabulary, from which random replacements are drawn.
        batch_size: B texts.
        seq_len: T.
        seed: Seed of order, cuts and masks.

    Returns:
        Batches {"tokens" (masked), "labels" (the original tokens): int32 [2 B, T], "masked" (predict here), "valid":
        bool [2 B, T]}; rows b and B + b are the halves of one text.

    Raises:
        UsageError: Too few texts are long enough.
    """
    long = [ids for ids in texts if len(ids) >= LEAST]
    if len(long) < batch_size:
        raise UsageError(
            f"{len(long)} texts have {LEAST} tokens or more, expected at least {batch_size} to pretrain on halves; "
            "give longer texts, or a smaller --pretraining.training.batch-size"
        )
    make = Halves(long, vocab_size, seq_len, seed)
    return iter(endless(len(long), batch_size, seed).map_with_index(make).to_iter_dataset(READ))
