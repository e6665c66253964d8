"""Packed blocks of a causal model: nothing is lost, nothing is predicted twice, every byte is counted once."""

import lzma

import numpy as np
import pytest

from experiments.data.causal import Stream, document_texts, eval_batches, make_stream, train_batches
from experiments.data.load import DataConfig
from experiments.data.text import Corpus, read_corpus
from experiments.data.tokenizers import CLS, PAD, SEP, ByteTokenizer, make_tokenizer
from train.errors import UsageError


def _corpus(documents: list[list[str]]) -> Corpus:
    sentences = [s for d in documents for s in d]
    none = np.full(len(sentences), -1, np.int32)
    return Corpus(sentences, np.repeat(np.arange(len(documents)), [len(d) for d in documents]), none, none)


CORPUS = _corpus([["Ab c.", "É is two bytes."], ["x"], ["A longer third document.", "It ends."]])


def test_a_stream_is_the_documents_with_marks():
    stream = make_stream(CORPUS, ByteTokenizer())
    parts = "".join({CLS: "<", SEP: ">"}.get(i, "") or chr(i - 5) for i in stream.ids.tolist())
    assert parts.encode("latin-1").decode() == "<Ab c. É is two bytes.><x><A longer third document. It ends.>"
    assert stream.bytes[stream.ids == CLS].tolist() == [0, 0, 0]
    assert stream.bytes[stream.ids != CLS].tolist() == [1] * (len(stream.ids) - 3)


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
@pytest.mark.parametrize("seq_len", [8, 33])
def test_an_evaluation_predicts_every_token_and_counts_every_byte_once(kind, seq_len):
    config = DataConfig(tokenizer=kind, vocab_size=300)
    corpus = read_corpus(DataConfig(max_examples=60), "validation")
    tokenizer = make_tokenizer(config, corpus.sentences)
    stream = make_stream(corpus, tokenizer)
    assert set(stream.bytes[stream.ids == SEP].tolist()) == {1}  # the line end, and nothing left over
    predicted, total = [], 0
    for batch in eval_batches(stream, batch_size=4, seq_len=seq_len):
        segment = batch["segment_ids"]
        assert batch["tokens"].shape == (4, seq_len)
        np.testing.assert_array_equal(batch["valid"], segment > 0)
        assert (batch["tokens"][~batch["valid"]] == PAD).all()
        use = batch["valid"][:, 1:] & (segment[:, 1:] == segment[:, :-1])
        predicted += batch["tokens"][:, 1:][use].tolist()
        total += int(batch["bytes"].sum())
    assert predicted == stream.ids[stream.ids != CLS].tolist()
    text = "".join(t + "\n" for t in document_texts(corpus)).encode()
    assert total == len(text)
    assert len(lzma.compress(text)) < total  # the text that another compressor would be given is the same


def test_training_blocks_are_pieces_of_the_stream_with_documents_told_apart():
    stream = make_stream(CORPUS, ByteTokenizer())
    place = Stream(np.arange(5, 5 + len(stream.ids), dtype=np.int32), stream.document, stream.bytes)
    iterator = train_batches(place, batch_size=2, seq_len=16, seed=1)
    starts = set()
    for _ in range(80):
        batch = next(iterator)
        assert batch["valid"].all()
        for row, segment, size in zip(batch["tokens"], batch["segment_ids"], batch["bytes"], strict=True):
            np.testing.assert_array_equal(np.diff(row), 1)
            document = stream.document[row - 5]
            np.testing.assert_array_equal(segment, document - document[0] + 1)
            use = document[1:] == document[:-1]
            assert size == stream.bytes[row[1:] - 5][use].sum()
            starts.add(int(row[0]) - 5)
    assert min(starts) < 8
    assert max(starts) == len(stream.ids) - 16
    assert len(starts) > 20


def test_training_resumes_and_repeats_by_seed():
    stream = make_stream(CORPUS, ByteTokenizer())

    def start(seed: int = 0):
        return train_batches(stream, batch_size=3, seq_len=10, seed=seed)

    a, b = start(), start()
    for _ in range(4):
        next(a)
    b.set_state(a.get_state())
    for _ in range(10):
        x, y = next(a), next(b)
        for key in x:
            np.testing.assert_array_equal(x[key], y[key])
    assert not np.array_equal(next(start())["tokens"], next(start(1))["tokens"])


def test_the_rows_of_all_processes_are_the_batch_of_one():
    stream = make_stream(CORPUS, ByteTokenizer())
    shape = {"batch_size": 6, "seq_len": 10}
    whole, *parts = (
        (train_batches(stream, **shape, seed=1, rows=rows), eval_batches(stream, **shape, rows=rows))
        for rows in (None, np.arange(3), np.arange(3, 6))
    )
    for _ in range(3):
        expected, halves = next(whole[0]), [next(train) for train, _ in parts]
        for name, value in expected.items():
            np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), value)
    assert [len(evaluation) for _, evaluation in parts] == [len(whole[1])] * 2
    for batches in zip(whole[1], *(evaluation for _, evaluation in parts), strict=True):
        np.testing.assert_array_equal(np.concatenate([b["tokens"] for b in batches[1:]]), batches[0]["tokens"])


def test_too_little_text_is_refused():
    with pytest.raises(UsageError, match="fewer than one block of 1000"):
        train_batches(make_stream(CORPUS, ByteTokenizer()), batch_size=1, seq_len=1000)
