"""Pairs of whole sentences: in order, swapped, or with a random second sentence; masked for a language model.

A pair is two consecutive sentences of one document that fit into the sequence uncut; the first ends with a full stop
and the second begins with a capital. A random second sentence comes from another document and is about as long as the
right one. So neither lengths nor cuts nor punctuation reveal the label of a pair.

    [CLS] first [SEP] second [SEP] padding
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import grain
import jax
import numpy as np

from experiments.data.bert import READ, Batch, endless, read_pair_text
from experiments.data.load import DataConfig
from experiments.data.passages import Passages, make_passages
from experiments.data.text import Corpus, Tokens
from experiments.data.tokenizers import CLS, MASK, PAD, SEP, SPECIAL_IDS, Tokenizer
from lossfns.language.masked import apply_mlm_mask
from train.errors import UsageError

Task = Literal["none", "next", "order"]
"""The change to half of the pairs: none, a random second sentence, or a swap."""
NEAR = 50
"""Maximum distance of a random second sentence from the right one in the order of lengths."""
SPECIALS = 3
ATTEMPTS = 40
"""Maximum number of draws before a pair is left unchanged."""


class Pairs(NamedTuple):
    """The pairs of a text, in order; arrays [n], except for the first two."""

    ids: np.ndarray
    """All tokens."""
    starts: np.ndarray
    """First token of each sentence, and the end."""
    second: np.ndarray
    """Index of the second sentence of each pair; the first precedes it."""
    document: np.ndarray
    by_length: np.ndarray
    """The pairs, sorted by the length of their second sentence."""
    rank: np.ndarray
    """Rank of each pair in that order."""


def find_pairs(tokens: Tokens, corpus: Corpus, seq_len: int) -> Pairs:
    """Finds the pairs of a text.

    Raises:
        UsageError: There are no pairs, or one document has more than half of them, so that no others can be drawn.
    """
    sentences = [sentence for sentence in corpus.sentences if sentence.strip()]
    later = np.arange(1, len(tokens.document))
    lengths = np.diff(tokens.starts)
    joined = (tokens.document[later] == tokens.document[later - 1]) & (
        lengths[later] + lengths[later - 1] + SPECIALS <= seq_len
    )
    second = np.array([i for i in later[joined] if seam(sentences[i - 1], sentences[i])], np.int64)
    document = tokens.document[second]
    if not len(second) or np.unique(document, return_counts=True)[1].max() * 2 > len(second):
        raise UsageError(
            f"Expected pairs of sentences that fit into {seq_len} tokens, no document with more than half of them, but "
            f"there are {len(second)} pairs in {len({*document.tolist()})} documents; take more text or a larger "
            "--data.seq-len."
        )
    order = np.argsort(lengths[second], kind="stable")
    return Pairs(tokens.ids, tokens.starts, second, document, order, np.argsort(order))


def seam(first: str, second: str) -> bool:
    """Whether one sentence ends and another begins here.

    >>> seam("He went.", '"Who?" I said.'), seam("He went,", "and I stayed.")
    (True, False)
    """
    return first.rstrip("\"') ")[-1:] in (".", "?", "!") and second.lstrip("\"'( ")[:1].isupper()


def draw_others(pairs: Pairs, index: np.ndarray, rng: np.random.Generator, seq_len: int) -> np.ndarray:
    """For each pair, a pair of another document with a second sentence of similar length that fits; else itself."""
    count, reach, lengths = len(pairs.second), NEAR, np.diff(pairs.starts)
    room = seq_len - SPECIALS - lengths[pairs.second[index] - 1]
    found = index.copy()
    for _ in range(ATTEMPTS):
        wrong = (pairs.document[found] == pairs.document[index]) | (lengths[pairs.second[found]] > room)
        left = np.flatnonzero(wrong)
        steps = rng.integers(-reach, reach + 1, len(left))
        found[left] = pairs.by_length[np.clip(pairs.rank[index[left]] + steps, 0, count - 1)]
        reach = min(reach + NEAR, count)
    wrong = (pairs.document[found] == pairs.document[index]) | (lengths[pairs.second[found]] > room)
    return np.where(wrong, index, found)


def make_pairs(pairs: Pairs, index: np.ndarray, task: Task, rng: np.random.Generator, seq_len: int) -> Batch:
    """Builds the pairs with these numbers, without masking.

    Returns:
        {"tokens", "segments": int32 [B, T], "valid": bool [B, T], "answer": int32 [B]}: 1 as in the text, else 0.
    """
    answer = rng.random(len(index)) < 0.5 if task != "none" else np.ones(len(index), bool)
    others = draw_others(pairs, index, rng, seq_len) if task == "next" else index
    answer = answer | (others == index) if task == "next" else answer
    first, second = pairs.second[index] - 1, pairs.second[np.where(answer, index, others)]
    lengths = np.diff(pairs.starts)
    if task == "order":
        first, second = np.where(answer, first, second), np.where(answer, second, first)
    place = np.arange(seq_len)[None, :]
    a, b = lengths[first][:, None], lengths[second][:, None]
    in_a, in_b = (place >= 1) & (place <= a), (place >= a + 2) & (place <= a + b + 1)
    start_a, start_b = pairs.starts[first][:, None] - 1, pairs.starts[second][:, None] - a - 2
    source = np.where(in_a, start_a + place, np.where(in_b, start_b + place, 0))
    tokens = np.where(in_a | in_b, pairs.ids[source], PAD)
    tokens[:, 0] = CLS
    tokens[(place == a + 1) | (place == a + b + 2)] = SEP
    valid = place < a + b + SPECIALS
    segments = (place >= a + 2) & valid
    return {
        "tokens": tokens.astype(np.int32),
        "segments": segments.astype(np.int32),
        "valid": valid,
        "answer": answer.astype(np.int32),
    }


@dataclass(frozen=True)
class PairSource:
    """Maps a batch number and numbers of pairs to a masked batch."""

    pairs: Pairs
    task: Task
    seq_len: int
    mask_rate: float
    seed: int
    word_starts: np.ndarray
    """Whether each token of the vocabulary begins a word, [V]."""
    whole_words: bool = False

    def __call__(self, step: int, index: np.ndarray) -> Batch:
        """Returns batch number `step`."""
        rng = np.random.default_rng([self.seed, step])
        batch = make_pairs(self.pairs, np.asarray(index), self.task, rng, self.seq_len)
        tokens = batch["tokens"]
        words = np.where(tokens >= len(SPECIAL_IDS), np.cumsum(self.word_starts[tokens], axis=1), -1)
        mask = _masker(len(self.word_starts), self.mask_rate)
        masked = mask(np.uint32(self.seed), np.uint32(step), tokens, words if self.whole_words else None)
        return batch | {name: np.asarray(value) for name, value in masked.items()}


@functools.cache
def _masker(vocab_size: int, rate: float) -> Callable[..., dict[str, jax.Array]]:
    """The compiled masking of a batch, a function of (seed, step, tokens, words)."""

    @jax.jit
    def mask(seed: jax.Array, step: jax.Array, tokens: jax.Array, words: jax.Array | None) -> dict[str, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed), step)
        options = {"mask_id": MASK, "vocab_size": vocab_size, "special": SPECIAL_IDS, "rate": rate}
        out = apply_mlm_mask(key, tokens, word_ids=words, **options)  # type: ignore[arg-type]
        return {"tokens": out.tokens, "labels": out.labels, "masked": out.masked}

    return mask


def word_starts(pieces: Sequence[str]) -> np.ndarray:
    """Whether each piece begins a word: sentencepiece marks it by U+2581; among bytes, the space does.

    >>> word_starts(["\u2581king", "dom", " "]).tolist()
    [True, False, True]
    """
    return np.array([piece.startswith(("\u2581", " ")) for piece in pieces])


def train_batches(source: PairSource, batch_size: int) -> grain.DatasetIterator:
    """Returns endless batches, every pair once in each pass, as an iterator of Grain."""
    batches = endless(len(source.pairs.second), batch_size, source.seed).map_with_index(source)
    return iter(batches.to_iter_dataset(READ))


def eval_batches(source: PairSource, batch_size: int = 128) -> list[Batch]:
    """Returns one pass over the pairs in a fixed random order, without an incomplete last batch."""
    order = np.random.default_rng([source.seed, 3]).permutation(len(source.pairs.second))
    size = min(batch_size, len(order))
    return [source(i, order[i * size : (i + 1) * size]) for i in range(len(order) // size)]


class OrderText(NamedTuple):
    """A text as pairs of sentences."""

    tokenizer: Tokenizer
    pairs: dict[str, Pairs]
    """By split."""
    starts: np.ndarray
    """Whether each token of the vocabulary begins a word, [V]."""
    passages: tuple[Passages, Passages] | None
    """Labelled passages of train and test; None if the text has no labels."""

    @property
    def counts(self) -> np.ndarray:
        """Occurrences of each token in the training text [V]."""
        return np.asarray(self.tokenizer.counts)


def read_order_text(config: DataConfig) -> OrderText:
    """Reads the splits; the tokenizer is trained on the training split only."""
    text = read_pair_text(config)
    pairs = {split: find_pairs(tokens, text.corpora[split], config.seq_len) for split, tokens in text.tokens.items()}
    starts = word_starts(text.tokenizer.pieces(range(text.tokenizer.vocab_size)))
    if not (text.corpora["train"].group >= 0).any():
        return OrderText(text.tokenizer, pairs, starts, None)
    train, test = (make_passages(text.corpora[split], text.tokenizer, config.seq_len) for split in ("train", "test"))
    return OrderText(text.tokenizer, pairs, starts, (train, test))


def most_masked(config: DataConfig) -> int:
    """The maximum number of masked tokens in a pair.

    >>> most_masked(DataConfig(seq_len=64, mask_rate=0.15))
    9
    """
    return max(1, round(config.mask_rate * (config.seq_len - SPECIALS)))
