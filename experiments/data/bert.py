"""BERT's input: masked sentence pairs as a Grain pipeline (Devlin et al. 2018, arXiv:1810.04805).

Each example belongs to a boundary between two sentences of one document. Segment A ends there; segment B starts there
(`is_next` = 1) or at a random boundary of another document (`is_next` = 0). The lengths depend on a random number and
on the lengths of the documents, never on the label itself, so neither lengths nor cuts reveal the label.

    [CLS] A [SEP] B [SEP] padding

Batch number n is a function of (seed, n) alone: pairs, lengths and masks come from generators seeded by both. A pass
over the data visits every boundary once, in a new order and with new pairs and masks each time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import grain
import jax
import numpy as np

from experiments.data.load import DataConfig
from experiments.data.text import Corpus, Tokens, read_corpus, tokenize
from experiments.data.tokenizers import CLS, MASK, PAD, SEP, SPECIAL_IDS, Tokenizer, make_tokenizer
from lossfns.language.masked import apply_mlm_mask
from train.errors import UsageError

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class PairText:
    """The tokenizer, and the three splits as sentences and as tokens."""

    tokenizer: Tokenizer
    corpora: dict[str, Corpus]
    tokens: dict[str, Tokens]


def read_pair_text(config: DataConfig) -> PairText:
    """Reads the three splits; the tokenizer is trained on train only."""
    corpora = {split: read_corpus(config, split) for split in ("train", "validation", "test")}
    tokenizer = make_tokenizer(config, corpora["train"].sentences)
    return PairText(tokenizer, corpora, {split: tokenize(corpus, tokenizer) for split, corpus in corpora.items()})


@dataclass(frozen=True)
class Boundaries:
    """All boundaries between two sentences of one document, in order; arrays of int64 [n].

    `position`: index of the first token after the boundary; `low`, `high`: start and end (exclusive) of the document in
    tokens; `first`, `count`: the range of the boundaries of the same document.
    """

    position: np.ndarray
    low: np.ndarray
    high: np.ndarray
    first: np.ndarray
    count: np.ndarray


def find_boundaries(tokens: Tokens) -> Boundaries:
    """Returns the boundaries of a corpus.

    Args:
        tokens: the tokenised corpus.

    Returns:
        Its boundaries.

    Raises:
        UsageError: fewer than two documents have two sentences, so that no wrong pair can be drawn.
    """
    document = tokens.document
    inside = np.flatnonzero(document[1:] == document[:-1]) + 1  # sentences after the first one of their document
    edges = np.flatnonzero(np.diff(document, prepend=-1, append=-1))  # first sentence of each document, and the end
    home = np.searchsorted(edges, inside, side="right") - 1
    _, first_of, inverse, count_of = np.unique(home, return_index=True, return_inverse=True, return_counts=True)
    if len(first_of) < 2:
        raise UsageError(
            "Sentence pairs need at least two documents of two sentences each; separate the documents of a text file "
            "by blank lines."
        )
    return Boundaries(
        position=tokens.starts[inside],
        low=tokens.starts[edges[home]],
        high=tokens.starts[edges[home + 1]],
        first=first_of[inverse],
        count=count_of[inverse],
    )


def make_pairs(tokens: Tokens, bounds: Boundaries, index: np.ndarray, rng: np.random.Generator, seq_len: int) -> Batch:
    """Builds the pairs of some boundaries, without masking.

    Args:
        tokens: the tokenised corpus.
        bounds: its boundaries.
        index: int [B], which boundaries.
        rng: generator of the labels, wrong continuations and lengths.
        seq_len: T.

    Returns:
        {"tokens", "segments": int32 [B, T], "valid": bool [B, T], "is_next": int32 [B]}.
    """
    n, rows = len(bounds.position), len(index)
    is_next = rng.random(rows) < 0.5
    other = bounds.first[index] + bounds.count[index] + rng.integers(0, n - bounds.count[index])
    second = np.where(is_next, index, other % n)  # the boundaries of other documents, cyclically after its own
    room = seq_len - 3
    have_a = bounds.position[index] - bounds.low[index]
    have_b = bounds.high[second] - bounds.position[second]
    want_a = rng.integers(room // 4, room - room // 4 + 1, rows)
    length_a = np.minimum(have_a, np.maximum(want_a, room - have_b))
    length_a = _whole_sentences(tokens.starts, bounds.position[index], length_a)
    length_b = np.minimum(have_b, room - length_a)
    return _pack(
        tokens.ids, bounds.position[index] - length_a, length_a, bounds.position[second], length_b, seq_len
    ) | {"is_next": is_next.astype(np.int32)}


def _whole_sentences(starts: np.ndarray, end: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Shortens A to whole sentences, unless even its last sentence is too long."""
    begin = starts[np.searchsorted(starts, end - length)]
    return np.where(begin < end, end - begin, length)


def _pack(
    ids: np.ndarray, start_a: np.ndarray, length_a: np.ndarray, start_b: np.ndarray, length_b: np.ndarray, seq_len: int
) -> Batch:
    """Assembles [CLS] A [SEP] B [SEP] with one gather."""
    place = np.arange(seq_len)[None, :]
    a, b = length_a[:, None], length_b[:, None]
    in_a, in_b = (place >= 1) & (place <= a), (place >= a + 2) & (place <= a + b + 1)
    source = np.where(in_a, start_a[:, None] + place - 1, np.where(in_b, start_b[:, None] + place - a - 2, 0))
    tokens = np.where(in_a | in_b, ids[source], PAD)
    tokens[:, 0] = CLS
    tokens[(place == a + 1) | (place == a + b + 2)] = SEP
    valid = place < a + b + 3
    segments = (place >= a + 2) & valid
    return {"tokens": tokens.astype(np.int32), "segments": segments.astype(np.int32), "valid": valid}


@dataclass(frozen=True)
class PairSource:
    """Maps a batch number and boundary indices to a masked batch, inside the Grain pipeline."""

    tokens: Tokens
    bounds: Boundaries
    vocab_size: int
    seq_len: int
    mask_rate: float
    seed: int
    rows: np.ndarray | None = None

    def __call__(self, step: int, index: np.ndarray) -> Batch:
        """Returns batch number `step` for the boundaries `index`, or only its `rows`."""
        rng = np.random.default_rng([self.seed, step])
        batch = make_pairs(self.tokens, self.bounds, np.asarray(index), rng, self.seq_len)
        with jax.default_device(host()):
            masked = masker(self.vocab_size, self.mask_rate)(np.uint32(self.seed), np.uint32(step), batch["tokens"])
        whole = batch | {name: np.asarray(value) for name, value in masked.items()}
        return whole if self.rows is None else {name: value[self.rows] for name, value in whole.items()}


@functools.cache
def masker(vocab_size: int, rate: float) -> Callable[[np.uint32, np.uint32, np.ndarray], dict[str, jax.Array]]:
    """Returns the compiled masking of a batch, a function of (seed, step, tokens)."""

    @jax.jit
    def mask(seed: jax.Array, step: jax.Array, tokens: jax.Array) -> dict[str, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed), step)
        out = apply_mlm_mask(key, tokens, mask_id=MASK, vocab_size=vocab_size, special=SPECIAL_IDS, rate=rate)
        return {"tokens": out.tokens, "labels": out.labels, "masked": out.masked}

    return mask


@functools.cache
def host() -> jax.Device | None:
    """Returns the CPU device for input processing, or None if JAX runs without the CPU backend."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def train_batches(
    tokens: Tokens,
    vocab_size: int,
    *,
    batch_size: int,
    seq_len: int = 64,
    mask_rate: float = 0.15,
    seed: int = 0,
    rows: np.ndarray | None = None,
) -> grain.DatasetIterator:
    """Returns endless training batches; the iterator's `get_state` and `set_state` resume it exactly.

    Args:
        tokens: the tokenised training split.
        vocab_size: size of the vocabulary, from which random replacements are drawn.
        batch_size: B.
        seq_len: T.
        mask_rate: fraction of the tokens to predict.
        seed: seed of order, pairs and masks.
        rows: which rows of each batch to return, as from `train.process_rows`; None returns all.

    Returns:
        Batches {"tokens" (masked), "labels" (the original tokens), "segments": int32 [B, T], "masked" (predict here),
        "valid": bool [B, T], "is_next": int32 [B]}.
    """
    bounds = find_boundaries(tokens)
    make = PairSource(tokens, bounds, vocab_size, seq_len, mask_rate, seed, rows)
    return iter(endless(len(bounds.position), batch_size, seed).map_with_index(make).to_iter_dataset(READ))


def eval_batches(
    tokens: Tokens,
    vocab_size: int,
    *,
    batch_size: int,
    seq_len: int = 64,
    mask_rate: float = 0.15,
    seed: int = 0,
    rows: np.ndarray | None = None,
    max_batches: int | None = None,
) -> grain.MapDataset:
    """Returns one fixed pass over a held-out split, with random access.

    Every boundary gives one pair; an incomplete last batch is dropped. See `train_batches` for arguments and batches;
    `max_batches` keeps only the first ones (an unbiased sample, because the order is shuffled).
    """
    bounds = find_boundaries(tokens)
    make = PairSource(tokens, bounds, vocab_size, seq_len, mask_rate, seed, rows)
    indices = grain.MapDataset.range(len(bounds.position)).shuffle(seed=seed)
    batches = indices.batch(batch_size, drop_remainder=True)
    if len(batches) == 0:
        raise UsageError(
            f"A held-out split of {len(bounds.position)} sentence pairs gives no batch of {batch_size}; make the batch "
            "smaller."
        )
    return batches.slice(slice(max_batches)).map_with_index(make)


READ = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
"""One thread is fast enough: a batch takes about a millisecond."""


def endless(count: int, batch_size: int, seed: int) -> grain.MapDataset:
    """Returns endless batches of the indices 0 .. count - 1, in a new order in each pass over them.

    Raises:
        UsageError: there are fewer examples than a batch needs.
    """
    if not 1 <= batch_size <= count:
        raise UsageError(
            f"The training data gives {count} examples, and a batch cannot have {batch_size} of them; choose a "
            f"--batch-size of 1 to {count}, or take more data."
        )
    indices = grain.MapDataset.range(count).shuffle(seed=seed)
    return indices.repeat(2**61 // count).batch(batch_size)  # repeat(None) overflows in batches of one
