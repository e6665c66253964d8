"""Sentence pairs and masks, checked on a corpus in which token ids tell the position: id = 5 + position."""

import itertools

import numpy as np
import pytest

from experiments.data.bert import eval_batches, find_boundaries, make_pairs, train_batches
from experiments.data.load import DataConfig, read_text_file
from experiments.data.text import Tokens, read_corpus, tokenize
from experiments.data.tokenizers import CLS, MASK, PAD, SEP, SPECIAL_IDS, ByteTokenizer, make_tokenizer
from train.errors import UsageError

SEQ_LEN = 24
FIRST = len(SPECIAL_IDS)


def _tokens(lengths: list[list[int]]) -> Tokens:
    """A corpus of documents, given as lists of sentence lengths."""
    flat = list(itertools.chain.from_iterable(lengths))
    return Tokens(
        ids=np.arange(FIRST, FIRST + sum(flat), dtype=np.int32),
        starts=np.concatenate([[0], np.cumsum(flat)]),
        document=np.repeat(np.arange(len(lengths)) * 7, [len(d) for d in lengths]),
        sentence_bytes=np.asarray(flat),
    )


def _random_tokens(documents: int, seed: int = 0) -> Tokens:
    rng = np.random.default_rng(seed)
    return _tokens([rng.integers(1, 30, rng.integers(1, 12)).tolist() for _ in range(documents)])


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return _random_tokens(60)


def _vocab(tokens: Tokens) -> int:
    return FIRST + len(tokens.ids)


def _take(iterator, count: int) -> list[dict[str, np.ndarray]]:
    return [next(iterator) for _ in range(count)]


def _assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def _segments(row: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the corpus of A's and B's tokens, after checking the frame around them."""
    labels, valid = row["labels"], row["valid"]
    length = int(valid.sum())
    assert valid[:length].all()
    assert (labels[length:] == PAD).all()
    first, second = np.flatnonzero(labels[:length] == SEP)
    assert labels[0] == CLS
    assert second == length - 1
    assert row["segments"].tolist() == [int(first < i < length) for i in range(len(labels))]
    return labels[1:first] - FIRST, labels[first + 1 : second] - FIRST


def test_pairs_are_what_their_labels_say(tokens):
    document_of = np.repeat(tokens.document, np.diff(tokens.starts))
    sentence_starts = set(tokens.starts.tolist())
    end_of = {d: int(np.flatnonzero(document_of == d)[-1]) + 1 for d in set(document_of.tolist())}
    iterator = train_batches(tokens, _vocab(tokens), batch_size=50, seq_len=SEQ_LEN, seed=3)
    full = 0
    for batch in _take(iterator, 20):
        for row in ({k: v[i] for k, v in batch.items()} for i in range(50)):
            a, b = _segments(row)
            assert len(a) > 0
            assert len(b) > 0
            np.testing.assert_array_equal(np.diff(a), 1)
            np.testing.assert_array_equal(np.diff(b), 1)
            assert len(set(document_of[a].tolist())) == len(set(document_of[b].tolist())) == 1
            assert int(b[0]) in sentence_starts
            assert int(a[-1]) + 1 in sentence_starts
            inside = [s for s in sentence_starts if a[0] < s <= a[-1]]
            assert int(a[0]) in sentence_starts or not inside  # only A's sole sentence may be cut
            if row["is_next"]:
                assert b[0] == a[-1] + 1
                assert document_of[a[0]] == document_of[b[0]]
            else:
                assert document_of[a[0]] != document_of[b[0]]
            full += len(a) + len(b) == SEQ_LEN - 3
            assert len(a) + len(b) == SEQ_LEN - 3 or b[-1] + 1 == end_of[int(document_of[b[0]])]
    assert full > 0.8 * 1000


def test_labels_are_balanced_and_lengths_do_not_tell_them(tokens):
    bounds = find_boundaries(tokens)
    rng = np.random.default_rng(0)
    index = np.tile(np.arange(len(bounds.position)), 40)
    batch = make_pairs(tokens, bounds, index, rng, SEQ_LEN)
    is_next, size = batch["is_next"].astype(bool), len(index)
    assert abs(is_next.mean() - 0.5) < 4 * 0.5 / np.sqrt(size)
    for length in (batch["segments"].sum(1), batch["valid"].sum(1)):
        spread = length.std() / np.sqrt(size / 2)
        assert abs(length[is_next].mean() - length[~is_next].mean()) < 0.5 + 5 * spread


def test_wrong_continuations_are_drawn_from_all_other_documents():
    tokens = _tokens([[4, 4, 4], [4], [4, 4], [4, 4, 4, 4]])
    bounds = find_boundaries(tokens)
    assert len(bounds.position) == 2 + 0 + 1 + 3
    starts: dict[int, set[int]] = {}
    for seed in range(200):
        batch = make_pairs(tokens, bounds, np.arange(6), np.random.default_rng(seed), 16)
        for i in np.flatnonzero(batch["is_next"] == 0):
            second = np.flatnonzero(batch["segments"][i])[0]
            starts.setdefault(int(i), set()).add(int(batch["tokens"][i, second]) - FIRST)
    first, third, fourth = {4, 8}, {20}, {28, 32, 36}  # positions of the boundaries of documents 1, 3 and 4
    expected = [third | fourth] * 2 + [first | fourth] + [first | third] * 3
    assert starts == dict(enumerate(expected))


def test_a_pass_visits_every_boundary_once_and_the_next_in_another_order(tokens):
    bounds = find_boundaries(tokens)
    count = len(bounds.position)
    rows = _take(train_batches(tokens, _vocab(tokens), batch_size=1, seq_len=SEQ_LEN), 2 * count)
    ends = [int(row["labels"][0][np.flatnonzero(row["labels"][0] == SEP)[0] - 1]) - FIRST + 1 for row in rows]
    assert sorted(ends[:count]) == sorted(ends[count:]) == bounds.position.tolist()
    assert ends[:count] != ends[count:]
    assert ends[:count] != sorted(ends[:count])


def test_batches_are_a_function_of_seed_and_step(tokens):
    def start(seed):
        return train_batches(tokens, _vocab(tokens), batch_size=8, seq_len=SEQ_LEN, seed=seed)

    for a, b in zip(_take(start(1), 5), _take(start(1), 5), strict=True):
        _assert_equal(a, b)
    assert not np.array_equal(next(start(1))["labels"], next(start(2))["labels"])


@pytest.mark.parametrize("stop", [0, 1, 7, 60])
def test_a_resumed_iterator_goes_on_bit_for_bit(tokens, stop):
    def start():
        return train_batches(tokens, _vocab(tokens), batch_size=16, seq_len=SEQ_LEN, seed=5)

    whole, first = start(), start()
    _take(first, stop)
    state = first.get_state()
    _take(first, 3)  # what is read after the state was taken does not change it
    resumed = start()
    resumed.set_state(state)
    _take(whole, stop)
    for a, b in zip(_take(whole, 30), _take(resumed, 30), strict=True):
        _assert_equal(a, b)


def test_masks_follow_the_rule_of_bert(tokens):
    vocab = _vocab(tokens)
    batches = _take(train_batches(tokens, vocab, batch_size=64, seq_len=64, mask_rate=0.15), 40)
    batch = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    maskable = ~np.isin(batch["labels"], SPECIAL_IDS)
    assert not (batch["masked"] & ~maskable).any()
    np.testing.assert_array_equal(batch["masked"].sum(1), np.maximum(1, np.round(0.15 * maskable.sum(1))))
    np.testing.assert_array_equal(batch["tokens"][~batch["masked"]], batch["labels"][~batch["masked"]])
    new, old = batch["tokens"][batch["masked"]], batch["labels"][batch["masked"]]
    size = len(new)
    kinds = {"mask": (new == MASK).mean(), "same": (new == old).mean()}
    for kind, share in (("mask", 0.8), ("same", 0.1)):
        assert abs(kinds[kind] - share) < 4 * np.sqrt(share * (1 - share) / size) + 1 / vocab
    random = new[(new != MASK) & (new != old)]
    assert random.min() >= FIRST
    assert random.max() < vocab
    assert len(np.unique(random)) > 0.5 * len(random) * (1 - len(random) / vocab)
    places = batch["masked"].sum(0)[1:40]
    assert places.min() > 0.7 * places.mean()


def test_mask_rate_and_shapes_are_those_asked_for(tokens):
    batch = next(train_batches(tokens, _vocab(tokens), batch_size=4, seq_len=32, mask_rate=0.4))
    maskable = (~np.isin(batch["labels"], SPECIAL_IDS)).sum(1)
    np.testing.assert_array_equal(batch["masked"].sum(1), np.round(0.4 * maskable))
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "tokens": ((4, 32), "int32"),
        "labels": ((4, 32), "int32"),
        "masked": ((4, 32), "bool"),
        "valid": ((4, 32), "bool"),
        "segments": ((4, 32), "int32"),
        "is_next": ((4,), "int32"),
    }


def test_evaluation_is_one_fixed_pass(tokens):
    batches = eval_batches(tokens, _vocab(tokens), batch_size=16, seq_len=SEQ_LEN)
    assert len(batches) == len(find_boundaries(tokens).position) // 16
    for a, b in zip(batches, batches, strict=True):
        _assert_equal(a, b)
    few = eval_batches(tokens, _vocab(tokens), batch_size=16, seq_len=SEQ_LEN, max_batches=2)
    assert len(list(few)) == 2
    _assert_equal(few[0], batches[0])


def test_too_little_text_is_refused(tokens):
    with pytest.raises(UsageError, match="two documents of two sentences"):
        find_boundaries(_tokens([[3, 3, 3], [4]]))
    with pytest.raises(UsageError, match="no batch of 4096"):
        eval_batches(tokens, _vocab(tokens), batch_size=4096)


def test_real_text_is_well_filled():
    tokenizer = ByteTokenizer()
    tokens = tokenize(read_corpus(DataConfig(), "validation"), tokenizer)
    batches = eval_batches(tokens, tokenizer.vocab_size, batch_size=64, seq_len=256)
    valid = np.mean([batch["valid"].mean() for batch in itertools.islice(batches, 20)])
    assert valid > 0.95


def test_a_text_file_takes_the_same_path(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join("\n".join(f"doc {d} line {i} of words." for i in range(6)) for d in range(20)))
    config = DataConfig(path=str(file), tokenizer="bytes")
    corpus = read_corpus(config, "train")
    assert corpus.sentences == [e["text"].decode() for e in read_text_file(file, "train")]
    tokenizer = make_tokenizer(config, corpus.sentences)
    batch = next(train_batches(tokenize(corpus, tokenizer), tokenizer.vocab_size, batch_size=8, seq_len=64))
    for row, is_next in zip(batch["labels"], batch["is_next"], strict=True):
        first = tokenizer.decode(row[: np.flatnonzero(row == SEP)[0]])
        second = tokenizer.decode(row[np.flatnonzero(row == SEP)[0] :])
        assert second.startswith("doc ")
        same = first.rsplit("doc ", 1)[-1].split()[0] == second.split()[1]
        if "doc " in first:
            assert same == bool(is_next)
