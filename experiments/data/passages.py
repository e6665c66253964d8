"""Labelled passages: consecutive verses of one chapter, joined, with the group of their book as the class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.data.text import Corpus
from experiments.data.tokenizers import CLS, PAD, SEP, Tokenizer
from train.errors import UsageError


@dataclass(frozen=True)
class Passages:
    """N passages of at most T tokens.

    `tokens` int32 [N, T] is [CLS] text [SEP] padding, `valid` bool [N, T]; `label` and `book` are int32 [N]; `text` is
    the list of N raw texts.
    """

    tokens: np.ndarray
    valid: np.ndarray
    label: np.ndarray
    book: np.ndarray
    text: list[str]

    def __len__(self) -> int:
        return len(self.text)

    def take(self, index: np.ndarray) -> Passages:
        """Returns the passages at an array of indices."""
        return Passages(
            self.tokens[index], self.valid[index], self.label[index], self.book[index], [self.text[i] for i in index]
        )


def make_passages(corpus: Corpus, tokenizer: Tokenizer, seq_len: int = 64) -> Passages:
    """Joins consecutive verses of a chapter into passages of at most `seq_len` tokens.

    Verses of books without a class are dropped. A verse longer than the sequence is truncated, as tokens and as text,
    so that a bag-of-words model sees no more than a token model.

    Args:
        corpus: a split of a data set with groups (`bible_web`, `bible_kjv`).
        tokenizer: the tokenizer.
        seq_len: T.

    Returns:
        Passages in the order of the text; they do not overlap.

    Raises:
        UsageError: the data set has no groups.
    """
    if not (corpus.group >= 0).any():
        raise UsageError("The passage task needs labelled books; take --data.name=bible_web or bible_kjv.")
    encoded = tokenizer.encode_all(corpus.sentences)
    room = seq_len - 2
    rows: list[list[int]] = []
    size = 0
    for i in np.flatnonzero(corpus.group >= 0):
        follows = rows and rows[-1][-1] == i - 1 and corpus.document[i] == corpus.document[i - 1]
        if follows and size + len(encoded[i]) <= room:
            rows[-1].append(int(i))
            size += len(encoded[i])
        else:
            rows.append([int(i)])
            size = len(encoded[i])
    tokens = np.full((len(rows), seq_len), PAD, np.int32)
    texts = []
    for row, members in enumerate(rows):
        ids = np.concatenate([encoded[i] for i in members])
        texts.append(
            " ".join(corpus.sentences[i] for i in members) if len(ids) <= room else tokenizer.decode(ids[:room])
        )
        ids = ids[:room]
        tokens[row, : len(ids) + 2] = [CLS, *ids, SEP]
    first = np.asarray([members[0] for members in rows])
    return Passages(tokens, tokens != PAD, corpus.group[first], corpus.book[first], texts)


def few_shot(passages: Passages, per_class: int, seed: int) -> Passages:
    """Draws the same number of labelled passages of each class.

    Args:
        passages: the training passages.
        per_class: number per class.
        seed: seed of the draw.

    Returns:
        `per_class` times the number of classes, in a shuffled order.

    Raises:
        UsageError: a class has too few passages.
    """
    rng = np.random.default_rng([seed, per_class])
    chosen = []
    for label in np.unique(passages.label):
        members = np.flatnonzero(passages.label == label)
        if len(members) < per_class:
            raise UsageError(f"Class {label} has {len(members)} passages, fewer than the requested {per_class}.")
        chosen.append(rng.choice(members, per_class, replace=False))
    return passages.take(rng.permutation(np.concatenate(chosen)))
