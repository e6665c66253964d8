"""Text as documents of sentences, and as one flat array of token ids.

A document of the Bible is a chapter. In a text file, blank lines separate documents. In other data sets an example is a
document, and its text is split into sentences.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.data.load import DataConfig, Example, find_text_feature, load, read_all, remedy_for
from experiments.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class Corpus:
    """Sentences in order; `document[i]` is the document number of sentence i and never decreases.

    `group` and `book` (-1 if there is none) carry the labels of the Bible's passages.
    """

    sentences: list[str]
    document: np.ndarray
    group: np.ndarray
    book: np.ndarray


@dataclass(frozen=True)
class Tokens:
    """A tokenised corpus: sentence i is `ids[starts[i]:starts[i + 1]]` and belongs to `document[i]`."""

    ids: np.ndarray
    starts: np.ndarray
    document: np.ndarray
    sentence_bytes: np.ndarray
    """int64 [sentences]: the length of each sentence in UTF-8, including the following space or line end."""


def split_sentences(text: str) -> list[str]:
    """Splits a text into sentences; a single sentence is cut in two, so that there is a boundary.

    >>> split_sentences("It rained. It stopped!")
    ['It rained.', 'It stopped!']
    >>> split_sentences("four words and no")
    ['four words', 'and no']
    """
    sentences = re.findall(r"\S.*?[.!?]+[\"')\]]*(?=\s|$)|\S.*$", " ".join(text.split()))
    if len(sentences) == 1 and len(words := sentences[0].split(" ")) > 1:
        half = len(words) // 2
        sentences = [" ".join(words[:half]), " ".join(words[half:])]
    return sentences


def read_corpus(config: DataConfig, split: str, *, directory: str | os.PathLike[str] | None = None) -> Corpus:
    """Reads a split as documents of sentences.

    Args:
        config: `name`, `path`, `text_feature`, `max_examples` and `skip_budget` are used.
        split: "train", "validation", "test" or a split of the data set's own.
        directory: folder of prepared data.

    Returns:
        The corpus.

    Raises:
        UsageError: see `load`.
    """
    budget = config.skip_budget
    source = read_all(
        load(config.name, split, path=config.path, data_dir=directory, skip_budget=budget),
        config.max_examples,
        what=f"{config.path or config.name}, split {split}",
        skip_budget=budget,
        remedy=remedy_for(config.name, directory) if config.path is None else "fix it",
        check=lambda example: _text(example[find_text_feature([example], config.text_feature)]),
    )
    feature = find_text_feature(source, config.text_feature)
    if "chapter" in source[0] and "book" in source[0]:
        return _verses(source, feature)
    sentences: list[str] = []
    document: list[int] = []
    for number, example in enumerate(source):
        text = _text(example[feature])
        parts = [text] if "document" in example else split_sentences(text)
        sentences += parts
        document += [int(example.get("document", number))] * len(parts)
    none = np.full(len(sentences), -1, np.int32)
    return Corpus(sentences, np.asarray(document, np.int64), none, none)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _verses(source: Sequence[Example], feature: str) -> Corpus:
    rows = [(int(e["book"]), int(e["chapter"]), int(e["group"]), e[feature].decode()) for e in source]
    return Corpus(
        sentences=[row[3] for row in rows],
        document=np.asarray([row[0] * 1000 + row[1] for row in rows], np.int64),
        group=np.asarray([row[2] for row in rows], np.int32),
        book=np.asarray([row[0] for row in rows], np.int32),
    )


def tokenize(corpus: Corpus, tokenizer: Tokenizer) -> Tokens:
    """Encodes a corpus sentence by sentence.

    Args:
        corpus: the sentences.
        tokenizer: the tokenizer.

    Returns:
        Its tokens; sentences without tokens are dropped.
    """
    encoded = tokenizer.encode_all(corpus.sentences)
    lengths = np.asarray([len(ids) for ids in encoded], np.int64)
    keep = lengths > 0
    return Tokens(
        ids=np.concatenate([np.zeros(0, np.int32), *encoded]),
        starts=np.concatenate([[0], np.cumsum(lengths[keep])]),
        document=corpus.document[keep],
        sentence_bytes=np.asarray([len(s.encode()) + 1 for s in corpus.sentences], np.int64)[keep],
    )
