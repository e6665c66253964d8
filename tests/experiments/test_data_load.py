"""Names, splits and text files; each mistake ends in one sentence that says what to do."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments.data import load as load_module
from experiments.data.load import DataConfig, find_text_feature, load, read_all, read_text_file, resolve_data_dir
from experiments.data.text import read_corpus, split_sentences, tokenize
from experiments.data.tokenizers import ByteTokenizer
from train.errors import UsageError


@pytest.fixture
def write(tmp_path: Path):
    def _write(content: bytes | str) -> Path:
        file = tmp_path / "text.txt"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return _write


def test_data_lives_where_told(monkeypatch, tmp_path):
    assert resolve_data_dir(tmp_path) == tmp_path
    monkeypatch.setenv("LOSSFNS_DATA_DIR", "/a/b")
    assert resolve_data_dir() == Path("/a/b")
    monkeypatch.delenv("LOSSFNS_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert resolve_data_dir() == Path("/c/lossfns")


def test_unknown_name_lists_close_and_embedded_names():
    with pytest.raises(UsageError, match=r"'bible_wb' \(did you mean bible_web or bible_kjv\?\).*digits, glyphs"):
        load("bible_wb", "train")
    with pytest.raises(UsageError, match="did you mean imdb_reviews"):
        load("imdb_review", "train")


def test_unknown_version_is_one_sentence():
    with pytest.raises(UsageError, match=r"cannot be loaded at version 9\.9\.9"):
        load("mnist:9.9.9", "train")


def test_unknown_split_lists_those_there_are():
    with pytest.raises(UsageError, match="has no split 'dev'; it has train, validation, test"):
        load("digits", "dev")


def test_slices_of_splits_work():
    assert len(load("digits", "train[:10]")) == 10
    assert len(load("digits", "train+test")) == len(load("digits", "train")) + len(load("digits", "test"))


def test_missing_network_is_said_at_once(monkeypatch, tmp_path):
    def refuse(*_args):
        raise OSError("no such host")

    monkeypatch.setattr(load_module.socket, "getaddrinfo", refuse)
    monkeypatch.setattr(load_module.urllib.request, "getproxies", dict)
    with pytest.raises(UsageError, match=r"mnist must be downloaded from storage\.googleapis\.com.*bible_web"):
        load("mnist", "train", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow"), "imports TensorFlow"),
        (ModuleNotFoundError("No module named 'bs4'", name="bs4"), "needs the package 'bs4'"),
        (OSError("No space left on device"), "could not be prepared: OSError, No space left on device"),
    ],
)
def test_what_a_builder_lacks_is_said(tmp_path, error, message):
    class Builder:
        data_path = tmp_path / "none"
        _make_download_manager = None

        def download_and_prepare(self):
            raise error

    with pytest.raises(UsageError, match=message):
        load_module.prepare(Builder(), "glue")


def test_tensorflow_is_never_imported():
    code = (
        "import sys; from experiments.data import bert, causal, images, passages, bible, digits, glyphs;"
        "from experiments.data.load import load; load('digits', 'test')[0];"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def test_missing_validation_and_test_are_cut_from_train():
    with tfds.testing.mock_data(num_examples=40):
        train, validation = load("imdb_reviews", "train"), load("imdb_reviews", "validation")
        assert len(train) == len(validation) == 40  # a mocked builder knows no splits, so all of them are whole
    assert load_module._cut("validation", ["train", "test", "unsupervised"]) == "train[90%:]"
    assert load_module._cut("train", ["train", "test", "unsupervised"]) == "train[:90%]"
    assert load_module._cut("test", ["train", "test", "unsupervised"]) == "test"
    assert load_module._cut("train", ["train", "validation", "test"]) == "train"
    assert load_module._cut("unsupervised", ["train", "unsupervised"]) == "unsupervised"


def test_a_cut_split_is_real_and_disjoint(monkeypatch):
    """Digits without its validation split: the last tenth of train stands in."""
    builder = load_module.make_builder("digits")
    load_module.prepare(builder, "digits")
    expression = load_module._cut("validation", ["train", "test"])
    whole, cut = load("digits", "train"), builder.as_data_source(split=expression)
    assert len(cut) == 126  # a tenth of 1,258
    np.testing.assert_array_equal(cut[0]["image"], whole[len(whole) - len(cut)]["image"])


@pytest.mark.parametrize("name", ["imdb_reviews", "lm1b", "glue/cola"])
def test_any_tfds_text_takes_the_same_path(name):
    with tfds.testing.mock_data(num_examples=8):
        corpus = read_corpus(DataConfig(name=name), "train")
    tokens = tokenize(corpus, ByteTokenizer())
    assert len(set(corpus.document.tolist())) == 8
    assert len(tokens.ids) == tokens.starts[-1] > 0


def test_max_examples_bounds_what_is_read():
    with tfds.testing.mock_data(num_examples=8):
        corpus = read_corpus(DataConfig(name="lm1b", max_examples=3), "train")
    assert len(set(corpus.document.tolist())) == 3


def test_text_feature_is_found_or_the_features_are_listed():
    row = {"title": b"a", "body": b"b", "image": np.zeros((2, 3), np.uint8)}
    assert find_text_feature([row | {"text": b"c"}]) == "text"
    assert find_text_feature([{"body": b"b", "label": np.int64(1)}]) == "body"
    assert find_text_feature([row], "title") == "title"
    with pytest.raises(
        UsageError, match=r"title \(text\), body \(text\), image \(uint8\[2, 3\]\).*--data.text-feature"
    ):
        find_text_feature([row])
    with pytest.raises(UsageError, match="no text feature 'image'"):
        find_text_feature([row], "image")
    with pytest.raises(UsageError, match="use a data set with a text feature"):
        find_text_feature([{"image": row["image"]}])


def test_text_file_has_documents_and_disjoint_splits(write):
    lines = [f"Sentence {i}." for i in range(40)]
    file = write("\n".join([*lines[:10], "", "", *lines[10:]]) + "\n")
    rows = {split: read_text_file(file, split) for split in ("train", "validation", "test")}
    assert [len(r) for r in rows.values()] == [36, 2, 2]
    assert [e["text"].decode() for r in rows.values() for e in r] == lines
    train = [e["document"] for e in rows["train"]]
    assert len(set(train[:10])) == len(set(train[10:])) == 1
    assert train[9] != train[10]


def test_text_file_may_begin_with_a_byte_order_mark(write):
    assert read_all(load("any", "train", path=write(b"\xef\xbb\xbfHello.\n" * 30)))[0]["text"] == b"Hello."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n\t\n", "is empty"),
        (b"fine\nbad \xff here", r"Line 2 of .*byte 0xff in position 4"),
        ("one\ntwo\nthree", "3 sentences, too few for the split 'validation'"),
    ],
)
def test_bad_text_files_are_refused(write, content, message):
    with pytest.raises(UsageError, match=message):
        load("any", "validation", path=write(content))


def test_missing_text_file_and_unknown_split_are_refused(write, tmp_path):
    with pytest.raises(UsageError, match=r"no text file .*none\.txt"):
        load("any", "train", path=tmp_path / "none.txt")
    with pytest.raises(UsageError, match="no text file"):
        load("any", "train", path=tmp_path)
    with pytest.raises(UsageError, match="train, validation, test, not 'dev'"):
        load("any", "dev", path=write("a"))


def test_sentences_are_cut_behind_their_ends():
    assert split_sentences('He said, "Go." They went!  Why? ') == ['He said, "Go."', "They went!", "Why?"]
    assert split_sentences("no end at all") == ["no end", "at all"]
    assert split_sentences("word") == ["word"]
    assert split_sentences(" ") == []
