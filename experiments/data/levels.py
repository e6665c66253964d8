"""A text as characters grouped into words, phrases and sentences, with the span that follows each of them.

A span includes the white space after it. A word ends at any white space, a phrase after a word with one of `,;:.!?`, a
sentence after a word with one of `.!?`; the end of a document ends all three. So each character is in one span of each
level, sentences consist of phrases and phrases of words. The target is the next span of the document: its words, as a
bag for phrases and sentences. It may lie beyond the block; the pooled span never does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import grain
import numpy as np

from experiments.data.bert import READ, Batch, endless
from experiments.data.causal import CausalText, Stream
from experiments.data.tokenizers import CLS, SEP, SPECIAL_IDS
from train.errors import UsageError

ENDS = {"word": r"[ \n]", "phrase": r"[,;:.!?][\"')\]]*[ \n]|\n", "sentence": r"[.!?][\"')\]]*[ \n]|\n"}
"""Patterns that match up to the last character of a span."""
LONGEST = {"word": 1, "phrase": 12, "sentence": 32}
"""Maximum number of words of the next span to predict; the others are left out."""
OTHER = 0
"""Id of every word outside the frequent ones."""


@dataclass(frozen=True)
class Level:
    """Spans of a level.

    `span` [N] is the span of each character, `end` [S] the position of the last character of a span, `words` [S, L] its
    first words (-1: no further one), and `follows` [S] whether another span of the document comes next.
    """

    span: np.ndarray
    end: np.ndarray
    words: np.ndarray
    follows: np.ndarray


@dataclass(frozen=True)
class Levels:
    """A text of bytes with its levels; `counts` are the maximum numbers of spans in a block."""

    stream: Stream
    levels: dict[str, Level]
    counts: dict[str, int]


def find_ends(text: str) -> dict[str, np.ndarray]:
    r"""Returns the positions of the last characters of each level's spans.

    >>> {level: ends.tolist() for level, ends in find_ends('He came, "Go." So\n').items()}
    {'word': [2, 8, 14, 17], 'phrase': [8, 14, 17], 'sentence': [14, 17]}
    """
    return {level: np.array([m.end() - 1 for m in re.finditer(p, text)], np.int64) for level, p in ENDS.items()}


def text_of(stream: Stream) -> str:
    """Returns a character for each byte of a stream: the line end for the end of a document, 0 for its start."""
    codes = np.where(stream.ids == SEP, ord("\n"), np.maximum(stream.ids - len(SPECIAL_IDS), 0))
    return codes.astype(np.uint8).tobytes().decode("latin-1")


def words_of(text: str, ends: np.ndarray) -> list[str]:
    """Returns the letters of each word, in lower case, given the positions of the white space after the words."""
    starts = np.concatenate([[0], ends[:-1] + 1])
    return [re.sub(r"[^\w']|^'+|'+$", "", text[a:b].strip("\0").lower()) for a, b in zip(starts, ends, strict=True)]


def make_vocabulary(texts: list[str], size: int) -> dict[str, int]:
    """Numbers the most frequent words from 1.

    >>> make_vocabulary(["of", "in", "of", ""], 1)
    {'of': 1}
    """
    counts = Counter(word for word in texts if word)
    return {word: number for number, (word, _) in enumerate(counts.most_common(size), 1)}


def make_level(stream: Stream, level: str, ends: Mapping[str, np.ndarray], ids: np.ndarray) -> Level:
    """Groups the characters of a stream into the spans of a level, given the ends of all levels and each word's id."""
    end = ends[level]
    last = np.searchsorted(ends["word"], end)  # the number of the last word of each span
    first = np.concatenate([[0], last[:-1] + 1])
    place = first[:, None] + np.arange(LONGEST[level])[None, :]
    words = np.where(place <= last[:, None], ids[np.minimum(place, len(ids) - 1)], -1)
    document = stream.document[end]
    follows = np.concatenate([document[1:] == document[:-1], [False]])
    span = np.searchsorted(end, np.arange(len(stream.ids)))
    return Level(span.astype(np.int32), end, words.astype(np.int32), follows)


def make_levels(text: CausalText, vocabulary: int, seq_len: int) -> dict[str, Levels]:
    """Finds the levels of all splits.

    Args:
        text: The splits as bytes.
        vocabulary: Number of frequent words of the training text with their own ids.
        seq_len: T, characters of a block.

    Raises:
        UsageError: A split is shorter than a block.
    """
    known: dict[str, int] = {}
    made: dict[str, dict[str, Level]] = {}
    for split, stream in text.streams.items():  # the training text is the first
        if len(stream.ids) <= seq_len:
            raise UsageError(
                f"the {split} text has {len(stream.ids)} characters, but a block takes more than {seq_len}; lower "
                "--data.seq-len or give a longer text"
            )
        plain = text_of(stream)
        ends = find_ends(plain)
        words = words_of(plain, ends["word"])
        known = known or make_vocabulary(words, vocabulary)
        ids = np.array([known.get(word, OTHER) for word in words], np.int32)
        made[split] = {level: make_level(stream, level, ends, ids) for level in ENDS}
    counts = {level: max(most_spans(of[level].span, seq_len) for of in made.values()) for level in ENDS}
    return {split: Levels(text.streams[split], of, counts) for split, of in made.items()}


def most_spans(span: np.ndarray, seq_len: int) -> int:
    """Returns the maximum number of spans in a block of `seq_len` characters.

    >>> most_spans(np.array([0, 0, 0, 1, 2, 2]), 3)
    3
    """
    return int((span[seq_len - 1 :] - span[: len(span) - seq_len + 1]).max()) + 1


def make_blocks(data: Levels, start: np.ndarray, seq_len: int) -> Batch:
    """Cuts blocks out of a text.

    Args:
        data: The text.
        start: Position of the first character of each block, [B]; blocks lie within the text.
        seq_len: T.

    Returns:
        {"tokens", "segment_ids": int32 [B, T]}, and for each level LEVEL_spans, int32 [B, T], the span of each
        character, LEVEL_next, int32 [B, S, L], the words of the span after each, and LEVEL_where, bool [B, S]: spans
        that end in the block and have a next span with a word to predict.
    """
    place = np.asarray(start)[:, None] + np.arange(seq_len)[None, :]
    document = data.stream.document[place]
    batch = {
        "tokens": data.stream.ids[place].astype(np.int32),
        "segment_ids": (document - document[:, :1] + 1).astype(np.int32),
    }
    for name, level in data.levels.items():
        number = span_numbers(data, name, start)
        after = level.words[np.minimum(number + 1, len(level.end) - 1)]
        ended = (level.end[number] <= place[:, -1:]) & level.follows[number]
        batch[f"{name}_spans"] = level.span[place] - number[:, :1]
        batch[f"{name}_next"] = after
        batch[f"{name}_where"] = ended & (True if name == "word" else (after > OTHER).any(-1))
    return batch


def span_numbers(data: Levels, level: str, start: np.ndarray) -> np.ndarray:
    """Returns the numbers of the spans from the first character of each block on, [B, S]."""
    found, count = data.levels[level], data.counts[level]
    return np.minimum(found.span[np.asarray(start)][:, None] + np.arange(count)[None, :], len(found.end) - 1)


@dataclass(frozen=True)
class _RandomBlocks:
    data: Levels
    seq_len: int
    seed: int

    def __call__(self, step: int, index: np.ndarray) -> Batch:
        """Returns batch number `step`: the blocks `index`, each shifted by less than a block."""
        shift = np.random.default_rng([self.seed, step]).integers(0, self.seq_len, len(index))
        start = np.asarray(index) * self.seq_len + shift
        return make_blocks(self.data, np.minimum(start, len(self.data.stream.ids) - self.seq_len), self.seq_len)


def train_batches(data: Levels, *, batch_size: int, seq_len: int, seed: int = 0) -> grain.DatasetIterator:
    """Returns endless training batches, see `make_blocks`; the iterator's `get_state` and `set_state` resume it."""
    make = _RandomBlocks(data, seq_len, seed)
    blocks = endless(len(data.stream.ids) // seq_len, batch_size, seed)
    return iter(blocks.map_with_index(make).to_iter_dataset(READ))


def even_starts(data: Levels, count: int, seq_len: int) -> np.ndarray:
    """Returns the starts of up to `count` evenly spaced blocks of a text, without overlap."""
    room = len(data.stream.ids) - seq_len
    return np.linspace(0, room, min(count, 1 + room // seq_len)).astype(np.int64)


def text_places(stream: Stream, place: np.ndarray) -> np.ndarray:
    """Converts positions in a stream to positions in the plain text (one line end after each document)."""
    return place - np.cumsum(stream.ids == CLS)[place]
