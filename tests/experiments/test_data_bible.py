"""The Bible's verses, classes and splits, and the passages made of them."""

import multiprocessing
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from experiments.data import bible
from experiments.data.load import DataConfig, load, read_all
from experiments.data.passages import few_shot, make_passages
from experiments.data.text import Corpus, read_corpus
from experiments.data.tokenizers import CLS, PAD, SEP, ByteTokenizer
from train.errors import UsageError

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def examples():
    return {split: read_all(load("bible_web", split)) for split in SPLITS}


@pytest.fixture(scope="module")
def verses():
    return bible.read_verses("web")


def test_all_verses_are_read_and_none_is_empty(verses):
    assert len(verses) == 31_102  # the number of verses of the Protestant canon in the usual numbering
    assert {v.book for v in verses} == set(range(1, 67))
    assert all(v.text for v in verses)
    first = verses[0]
    assert (first.book_name, first.chapter, first.verse) == ("Genesis", 1, 1)
    assert first.text == "In the beginning God created the heavens and the earth."


@pytest.mark.parametrize("version", ["web", "kjv"])
def test_text_is_normalised(version):
    text = "\n".join(v.text for v in bible.read_verses(version))
    assert unicodedata.is_normalized("NFC", text)
    assert not set(text) & set("`‘’“”—[]\t")  # noqa: RUF001
    assert "  " not in text
    assert not any(v.text[0].isdigit() for v in bible.read_verses(version))


def test_splits_hold_out_whole_books(examples):
    books = {split: {int(e["book"]) for e in rows} for split, rows in examples.items()}
    assert set.union(*books.values()) == set(range(1, 67))
    assert sum(len(b) for b in books.values()) == 66
    assert books["train"] == {b for b, split in bible.book_splits().items() if split == "train"}


def test_no_text_is_in_two_splits(examples):
    keys = {split: {bible.key_of(e["text"].decode()) for e in rows} for split, rows in examples.items()}
    assert not keys["train"] & keys["validation"]
    assert not keys["train"] & keys["test"]
    assert not keys["validation"] & keys["test"]


def test_test_books_are_whole_and_little_else_is_lost(examples, verses):
    of_book = bible.book_splits()
    whole = {split: sum(of_book[v.book] == split for v in verses) for split in SPLITS}
    assert len(examples["test"]) == whole["test"]
    assert whole["train"] > len(examples["train"]) > 0.99 * whole["train"]


def test_verses_keep_the_order_of_the_text(examples):
    places = [(int(e["book"]), int(e["chapter"]), int(e["verse"])) for e in examples["train"]]
    assert places == sorted(places)


def test_every_class_has_books_in_every_split(examples):
    for rows in examples.values():
        assert {int(e["group"]) for e in rows} - {-1} == set(range(len(bible.GROUPS)))


def test_classes_are_disjoint_and_only_single_book_groups_have_none():
    from pythonbible import Book

    groups = bible.book_groups()
    assert {Book(b).title for b in range(1, 67) if b not in groups} == {"Acts", "Revelation"}
    label = {Book(b).title: bible.GROUPS[g] for b, g in groups.items()}
    assert label["Genesis"] == "law"
    assert label["Esther"] == "history"
    assert label["Job"] == "poetry_wisdom"
    assert label["Daniel"] == "major_prophets"
    assert label["Jonah"] == "minor_prophets"
    assert label["John"] == "gospels"
    assert label["Philemon"] == "paul_epistles"
    assert label["Hebrews"] == "general_epistles"


def test_held_out_names_are_books():
    from pythonbible import Book

    titles = {book.title for book in Book}
    assert all(name in titles for names in bible.HELD_OUT.values() for name in names)


def _prepare(folder: str) -> int:
    return len(load("bible_kjv", "test", data_dir=folder))


def test_two_processes_may_prepare_the_same_data_at_once(tmp_path: Path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sizes = pool.map(_prepare, [str(tmp_path)] * 2, chunksize=1)
    assert sizes[0] == sizes[1] > 5000
    assert not list(tmp_path.rglob("*incomplete*"))


def _corpus(lengths: list[int], chapter: list[int], group: list[int]) -> Corpus:
    return Corpus(["x" * n for n in lengths], np.asarray(chapter), np.asarray(group, np.int32), np.asarray(group))


def test_passages_join_verses_of_one_chapter_while_they_fit():
    corpus = _corpus([3, 4, 5, 2, 1], [1, 1, 1, 1, 2], [0, 0, 0, 0, 0])
    passages = make_passages(corpus, ByteTokenizer(), seq_len=10)  # room for 8 bytes: 3 + 4 | 5 + 2 | 1 of chapter 2
    assert passages.text == ["xxx xxxx", "xxxxx xx", "x"]
    assert passages.valid.sum(1).tolist() == [9, 9, 3]
    assert passages.tokens[2].tolist() == [CLS, 5 + ord("x"), SEP, *[PAD] * 7]


def test_passages_leave_out_books_without_a_class_and_cut_long_verses():
    corpus = _corpus([3, 30, 3], [1, 2, 3], [-1, 2, 1])
    passages = make_passages(corpus, ByteTokenizer(), seq_len=10)
    assert passages.label.tolist() == [2, 1]
    assert passages.text == ["x" * 8, "xxx"]


def test_few_shot_draws_each_class_alike_and_repeats_by_seed():
    corpus = _corpus([8] * 40, list(range(40)), [0, 1] * 20)
    passages = make_passages(corpus, ByteTokenizer(), seq_len=10)
    a, b, c = (few_shot(passages, 4, seed) for seed in (0, 0, 1))
    assert np.bincount(a.label).tolist() == [4, 4]
    assert a.text == b.text
    assert not np.array_equal(a.label, c.label)
    with pytest.raises(UsageError, match="20 passages, fewer than the requested 21"):
        few_shot(passages, 21, 0)


def test_passages_need_labels():
    with pytest.raises(UsageError, match="bible_web"):
        make_passages(_corpus([3], [1], [-1]), ByteTokenizer())


def test_real_passages_are_of_held_out_books(examples):
    corpus = read_corpus(DataConfig(), "test")
    passages = make_passages(corpus, ByteTokenizer(), seq_len=256)
    train_books = {int(e["book"]) for e in examples["train"]}
    assert not set(passages.book.tolist()) & train_books
    assert set(passages.label.tolist()) == set(range(len(bible.GROUPS)))
