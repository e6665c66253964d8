"""Tokenizers: round trips, fixed special ids, a cache keyed by content, counts, silence."""

import dataclasses
import errno
import os
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data import tokenizers
from experiments.data.load import DataConfig
from experiments.data.tokenizers import SPECIAL_IDS, SPECIAL_NAMES, ByteTokenizer, make_tokenizer
from train.errors import RunFailed, UsageError

WORDS = "the quick brown fox jumps over lazy dogs while seven wizards brew potent elixirs near quiet rivers"
TEXTS = [" ".join(np.random.default_rng(i).choice(WORDS.split(), 12)) + "." for i in range(200)]
SMALL = DataConfig(vocab_size=90)


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode([2, *ids, 3, 0]) == text
    assert ids.tolist() == [5 + b for b in text.encode()]


@pytest.mark.parametrize("subwords", ["unigram", "bpe"])
def test_subwords_round_trip_with_fixed_special_ids(subwords, tmp_path):
    tokenizer = make_tokenizer(dataclasses.replace(SMALL, subwords=subwords), TEXTS, directory=tmp_path)
    assert tokenizer.pieces(SPECIAL_IDS) == list(SPECIAL_NAMES)
    for text in TEXTS[:10]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode([2, *ids, 3, 4, 0]) == text
        assert ids.min() >= len(SPECIAL_IDS)
    assert tokenizer.vocab_size <= 90


def test_special_names_in_a_text_are_no_special_tokens(tmp_path):
    tokenizer = make_tokenizer(SMALL, TEXTS, directory=tmp_path)
    assert not set(tokenizer.encode("[MASK] [CLS] fox").tolist()) & {0, 2, 3, 4}


def test_second_use_reads_the_cache(tmp_path, monkeypatch):
    first = make_tokenizer(SMALL, TEXTS, directory=tmp_path)
    monkeypatch.setattr(tokenizers, "train_sentencepiece", None)  # training again would fail
    second = make_tokenizer(SMALL, TEXTS, directory=tmp_path)
    np.testing.assert_array_equal(first.encode(TEXTS[0]), second.encode(TEXTS[0]))
    files = list((tmp_path / "tokenizers").iterdir())
    assert len(files) == 1
    assert files[0].suffix == ".model"


@pytest.mark.parametrize(
    ("config", "texts", "version"),
    [
        (SMALL, [*TEXTS[:-1], "another sentence."], None),
        (SMALL, [TEXTS[0] + "\n" + TEXTS[1], *TEXTS[2:]], None),
        (dataclasses.replace(SMALL, vocab_size=80), TEXTS, None),
        (dataclasses.replace(SMALL, subwords="bpe"), TEXTS, None),
        (SMALL, TEXTS, "0.0.0"),
    ],
)
def test_the_cache_key_covers_text_size_type_and_version(tmp_path, monkeypatch, config, texts, version):
    make_tokenizer(SMALL, TEXTS, directory=tmp_path)
    if version is not None:
        monkeypatch.setattr(tokenizers.sentencepiece, "__version__", version)
    make_tokenizer(config, texts, directory=tmp_path)
    assert len(list((tmp_path / "tokenizers").iterdir())) == 2


def test_training_is_deterministic_and_silent(capfd):
    first = tokenizers.train_sentencepiece(TEXTS, 90, "unigram")
    assert tokenizers.train_sentencepiece(TEXTS, 90, "unigram") == first
    assert capfd.readouterr() == ("", "")


def test_counts_are_those_of_the_training_text(tmp_path):
    tokenizer = make_tokenizer(SMALL, TEXTS, directory=tmp_path)
    assert tokenizer.counts.shape == (tokenizer.vocab_size,)
    assert tokenizer.counts.sum() == sum(len(tokenizer.encode(t)) for t in TEXTS)
    counted = make_tokenizer(dataclasses.replace(SMALL, tokenizer="bytes"), ["abba"], directory=tmp_path).counts
    assert {chr(i - 5): int(n) for i, n in enumerate(counted) if n} == {"a": 2, "b": 2}


def test_a_small_text_gives_fewer_subwords_and_a_tiny_size_is_refused(tmp_path):
    assert make_tokenizer(DataConfig(vocab_size=8192), TEXTS, directory=tmp_path).vocab_size < 8192
    with pytest.raises(UsageError, match="at least 32, but it is 3"):
        make_tokenizer(DataConfig(vocab_size=3), TEXTS, directory=tmp_path)
    alphabet = ["".join(map(chr, range(0x4E00 + i, 0x4E00 + i + 50))) for i in range(0, 500, 50)]
    with pytest.raises(UsageError, match=r"--data\.vocab-size"):
        make_tokenizer(DataConfig(vocab_size=40), alphabet, directory=tmp_path)


def test_nothing_half_written_stays_behind(tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RunFailed, match=r"cannot write .*\.model \(disk full\); make room on the disk"):
        make_tokenizer(SMALL, TEXTS, directory=tmp_path)
    assert not list((tmp_path / "tokenizers").glob("*"))


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The file of a kept tokenizer, what it gives for a text, and a function that makes it again."""
    first = make_tokenizer(SMALL, TEXTS, directory=tmp_path)
    (file,) = (tmp_path / "tokenizers").iterdir()
    model = first._processor.serialized_model_proto()
    learn = tokenizers.train_sentencepiece
    assert learn(TEXTS, 90, "unigram") == model
    monkeypatch.setattr(tokenizers, "train_sentencepiece", lambda *_: model)  # which takes long for 300 times
    return file, first.encode(TEXTS[0]).tolist(), lambda: make_tokenizer(SMALL, TEXTS[:], directory=tmp_path)


def test_a_flipped_bit_changes_no_token(kept, capfd):
    file, ids, again = kept
    whole = file.read_bytes()
    model = whole.partition(b"\n")[2]
    rng = np.random.default_rng(0)
    for place, bit in zip(rng.integers(len(whole), size=300), rng.integers(8, size=300), strict=True):
        harmed = bytearray(whole)
        harmed[place] ^= 1 << bit
        file.write_bytes(harmed)
        assert tokenizers._cached_model(SMALL, TEXTS, file.parent) == model
        printed = capfd.readouterr()
        assert printed.err == f"warning: the tokenizer {file} is damaged; it is trained again\n"
        assert printed.out == ""
        assert file.read_bytes() == whole
    assert again().encode(TEXTS[0]).tolist() == ids
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "harm",
    [
        lambda file: os.truncate(file, 0),
        lambda file: os.truncate(file, 100),
        lambda file: file.write_bytes(file.read_bytes() + b"x"),
        lambda file: file.write_bytes(file.read_bytes().partition(b"\n")[2]),
        lambda file: (file.unlink(), os.mkfifo(file)),
        lambda file: (file.rename(file.with_name("other")), file.symlink_to("other")),
    ],
    ids=["empty", "cut", "longer", "without-sum", "pipe", "link"],
)
def test_a_kept_tokenizer_that_is_no_whole_file_is_learnt_again(kept, capfd, harm):
    file, ids, again = kept
    harm(file)
    assert again().encode(TEXTS[0]).tolist() == ids
    assert capfd.readouterr().err.count("it is trained again") == 1
    assert file.is_file()
    assert not file.is_symlink()


def test_others_can_read_a_kept_tokenizer(tmp_path):
    before = os.umask(0o022)
    try:
        make_tokenizer(SMALL, TEXTS, directory=tmp_path)
    finally:
        os.umask(before)
    (file,) = (tmp_path / "tokenizers").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
