"""Input of a causal language model: documents packed into blocks, as a Grain pipeline.

All documents are concatenated into one stream, each as [CLS] text [SEP], and a block is a window of the stream.
`segment_ids` numbers the documents in a block from 1 (0: padding). Prediction stays within a segment, so [CLS] is never
predicted and the end of a document always is.

Bits per byte: [SEP] stands for the line end after a document, so a stream predicts exactly the bytes of the text with
one line end after each document. `bytes` counts the bytes of the predicted tokens of a block; its sum over a pass of
`eval_batches` is the length of the text.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import grain
import numpy as np

from experiments.data.bert import READ, Batch, endless
from experiments.data.load import DataConfig
from experiments.data.text import Corpus, read_corpus
from experiments.data.tokenizers import CLS, PAD, SEP, ByteTokenizer, Tokenizer, make_tokenizer
from train.errors import UsageError

HELD_OUT = ("validation", "test")


@dataclass(frozen=True)
class Stream:
    """Tokens of all documents, concatenated: `ids`, `document` and `bytes` (text bytes of a token) are [N]."""

    ids: np.ndarray
    document: np.ndarray
    bytes: np.ndarray


@dataclass(frozen=True)
class CausalText:
    """The tokenizer, and each split as a stream of tokens and as plain bytes."""

    tokenizer: Tokenizer
    streams: dict[str, Stream]
    texts: dict[str, bytes]
    lost_bytes: dict[str, int]
    """For each held-out split, bytes of the characters that the tokenizer cannot encode."""

    def document_bytes(self, split: str) -> np.ndarray:
        """Returns the length of each document in bytes, including its line end; float64 [documents]."""
        return np.bincount(self.streams[split].document, self.streams[split].bytes)


def read_causal_text(config: DataConfig) -> CausalText:
    """Reads train, validation and test; the tokenizer is trained on train only."""
    corpora = {split: read_corpus(config, split) for split in ("train", *HELD_OUT)}
    tokenizer = make_tokenizer(config, corpora["train"].sentences)
    return CausalText(
        tokenizer,
        {split: make_stream(corpus, tokenizer) for split, corpus in corpora.items()},
        {split: plain_bytes(corpus) for split, corpus in corpora.items()},
        {split: lost_bytes(corpora[split], tokenizer) for split in HELD_OUT},
    )


def document_texts(corpus: Corpus) -> list[str]:
    """Returns the text of each document: its sentences, joined by spaces.

    >>> none = np.zeros(3, int)
    >>> document_texts(Corpus(["a", "b", "c"], np.asarray([5, 5, 7]), none, none))
    ['a b', 'c']
    """
    edges = np.flatnonzero(np.diff(corpus.document, prepend=-1, append=-1))
    return [" ".join(corpus.sentences[a:b]) for a, b in pairwise(edges)]


def plain_bytes(corpus: Corpus) -> bytes:
    """Returns the text to predict: each document and a line end."""
    return "".join(f"{text}\n" for text in document_texts(corpus)).encode()


def lost_bytes(corpus: Corpus, tokenizer: Tokenizer) -> int:
    """Returns the number of bytes lost by encoding and decoding."""
    lost: Counter[str] = Counter()
    for text in document_texts(corpus):
        lost += Counter(text) - Counter(tokenizer.decode(tokenizer.encode(text)))
    return sum(len(character.encode()) * count for character, count in lost.items())


def make_stream(corpus: Corpus, tokenizer: Tokenizer) -> Stream:
    """Concatenates the documents of a corpus.

    Args:
        corpus: the corpus.
        tokenizer: the tokenizer.

    Returns:
        The stream; its `bytes` sum to the length of the texts in UTF-8 plus one for each document.
    """
    texts = document_texts(corpus)
    ids, document, sizes = [], [], []
    for number, (text, encoded) in enumerate(zip(texts, tokenizer.encode_all(texts), strict=True)):
        size = _token_bytes(encoded, tokenizer)
        rest = (
            len(text.encode()) + 1 - int(size.sum())
        )  # the line end, and bytes removed by the normalisation of the tokenizer
        ids.append(np.concatenate([[CLS], encoded, [SEP]]))
        sizes.append(np.concatenate([[0], size, [rest]]))
        document.append(np.full(len(encoded) + 2, number))
    return Stream(
        np.concatenate(ids).astype(np.int32), np.concatenate(document), np.concatenate(sizes).astype(np.int64)
    )


def _token_bytes(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Returns the text bytes of each token, without the space that sentencepiece adds before the first."""
    if isinstance(tokenizer, ByteTokenizer):
        return np.ones(len(ids), np.int64)
    size = np.asarray([len(piece.replace("▁", " ").encode()) for piece in tokenizer.pieces(ids)], np.int64)
    size[:1] -= 1
    return size


def _blocks(stream: Stream, start: np.ndarray, seq_len: int) -> Batch:
    """Cuts blocks out of the stream; positions outside of it are padding."""
    place = start[:, None] + np.arange(seq_len)[None, :]
    valid = (place >= 0) & (place < len(stream.ids))
    place = np.where(valid, place, 0)
    document = stream.document[place]
    segment = np.where(valid, document - document[:, :1] + 1, 0)
    predicted = valid[:, 1:] & (segment[:, 1:] == segment[:, :-1])
    return {
        "tokens": np.where(valid, stream.ids[place], PAD).astype(np.int32),
        "valid": valid,
        "segment_ids": segment.astype(np.int32),
        "bytes": (stream.bytes[place][:, 1:] * predicted).sum(1).astype(np.int32),
    }


@dataclass(frozen=True)
class _RandomBlocks:
    stream: Stream
    seq_len: int
    seed: int
    rows: np.ndarray | None

    def __call__(self, step: int, index: np.ndarray) -> Batch:
        """Returns batch number `step`: the blocks `index`, each shifted by less than a block."""
        shift = np.random.default_rng([self.seed, step]).integers(0, self.seq_len, len(index))
        start = np.asarray(index) * self.seq_len + shift
        start = start if self.rows is None else start[self.rows]
        return _blocks(self.stream, np.minimum(start, len(self.stream.ids) - self.seq_len), self.seq_len)


@dataclass(frozen=True)
class _FixedBlocks:
    stream: Stream
    seq_len: int
    batch_size: int
    rows: np.ndarray | None

    def __call__(self, index: np.ndarray) -> Batch:
        """Returns the blocks `index`; missing rows of the last batch are padding."""
        start = np.full(self.batch_size, len(self.stream.ids))
        start[: len(index)] = np.asarray(index) * (
            self.seq_len - 1
        )  # the first token of a block is the last token of the previous one
        return _blocks(self.stream, start if self.rows is None else start[self.rows], self.seq_len)


def train_batches(
    stream: Stream, *, batch_size: int, seq_len: int, seed: int = 0, rows: np.ndarray | None = None
) -> grain.DatasetIterator:
    """Returns endless training batches; the iterator's `get_state` and `set_state` resume it exactly.

    Args:
        stream: the training documents.
        batch_size: B.
        seq_len: T.
        seed: seed of the order and of the block offsets.
        rows: which rows of each batch to make, as from `train.process_rows`; None makes all. Order and position do not
            depend on it.

    Returns:
        Batches {"tokens", "segment_ids": int32 [B, T], "valid": bool [B, T], "bytes": int32 [B]}; a pass covers the
        stream once on average, with other block offsets in each pass.

    Raises:
        UsageError: the text is shorter than a block.
    """
    count = len(stream.ids) // seq_len
    if count == 0:
        raise UsageError(f"The training text has {len(stream.ids)} tokens, fewer than one block of {seq_len}.")
    make = _RandomBlocks(stream, seq_len, seed, rows)
    return iter(endless(count, batch_size, seed).map_with_index(make).to_iter_dataset(READ))


def eval_batches(stream: Stream, *, batch_size: int, seq_len: int, rows: np.ndarray | None = None) -> grain.MapDataset:
    """Returns one pass that predicts every token except [CLS] once; blocks overlap by one token.

    The last batch is padded. See `train_batches` for arguments and batches.
    """
    count = max(1, -(-(len(stream.ids) - 1) // (seq_len - 1)))
    return grain.MapDataset.range(count).batch(batch_size).map(_FixedBlocks(stream, seq_len, batch_size, rows))


def whole_batches(stream: Stream, *, batch_size: int, seq_len: int) -> Batch:
    """Returns the pass of `eval_batches` as one array for each name, [batches, B, ...]."""
    batches = list(eval_batches(stream, batch_size=batch_size, seq_len=seq_len))
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def whole_blocks(stream: Stream, seq_len: int) -> Batch:
    """Returns the blocks of a pass that are not padded, [blocks, ...], to draw batches from.

    Raises:
        UsageError: the text is shorter than a block.
    """
    count = (len(stream.ids) - 1) // (seq_len - 1)
    if count == 0 or len(stream.ids) < seq_len:
        raise UsageError(f"The training text has {len(stream.ids)} tokens, fewer than one block of {seq_len}.")
    (batch,) = eval_batches(stream, batch_size=count, seq_len=seq_len)[:1]
    return dict(batch)
