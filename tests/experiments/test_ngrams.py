"""The n-gram against a brute-force Kneser-Ney, and xz against its own bound."""

import lzma
from collections import Counter, defaultdict

import numpy as np
import pytest

from experiments.baselines.ngrams import MAX_ORDER, codes, score_orders, train_ngrams, xz_bits_per_byte
from train.errors import UsageError

TEXT = b"the cat sat on the mat; the rat sat on the cat. abracadabra, said the bat: abra!"


def oracle(text, order, context, byte):
    """p(byte | context) by the formula, with dictionaries and recursion."""

    def grams(length):
        return [text[i : i + length] for i in range(len(text) - length + 1)]

    def counts(length):
        if length == order:
            return Counter(grams(length))
        return Counter(gram[1:] for gram in set(grams(length + 1)))

    def probability(length, context):
        if length == 0:
            return 1 / 256
        context = context[len(context) - (length - 1) :]
        table = counts(length)
        once, twice = (sum(c == k for c in table.values()) for k in (1, 2))
        discount = once / (once + 2 * twice) if once else 0.5
        after = defaultdict(dict)
        for gram, count in table.items():
            after[gram[:-1]][gram[-1]] = count
        shorter = probability(length - 1, context)
        if context not in after:
            return shorter
        seen = after[context]
        total = sum(seen.values())
        return (max(seen.get(byte, 0) - discount, 0) + discount * len(seen) * shorter) / total

    return probability(order, context)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_ngram_is_kneser_ney(order):
    model = train_ngrams(TEXT, order)[order]
    text = b"the bat sat. zebra"
    found = model.log2_probabilities(text)
    for place in range(order - 1, len(text)):
        expected = np.log2(oracle(TEXT, order, text[:place], text[place]))
        assert found[place] == pytest.approx(expected, rel=1e-12)
    assert model.bits_per_byte(text) == pytest.approx(-found.mean())


@pytest.mark.parametrize("context", [b"", b"t", b"abracad", b"on the m", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9", b"xthe ca"])
def test_probabilities_sum_to_one(context):
    for model in train_ngrams(TEXT, MAX_ORDER).values():
        total = sum(2.0 ** model.log2_probabilities(context + bytes([byte]))[-1] for byte in range(256))
        assert total == pytest.approx(1.0, abs=1e-12)


def test_longest_codes_are_exact():
    text = bytes(range(247, 256))
    assert [int(code) for code in codes(text, 8)] == [int.from_bytes(text[i : i + 8], "big") for i in (0, 1)]


def test_bytes_never_seen_are_possible():
    model = train_ngrams(b"ab" * 50, 3)[3]
    assert np.isfinite(model.log2_probabilities(b"xyz")).all()


@pytest.mark.parametrize("order", [0, MAX_ORDER + 1])
def test_order_out_of_range_is_refused(order):
    with pytest.raises(UsageError, match=f"must be 1 to {MAX_ORDER}, but it is {order}"):
        train_ngrams(TEXT, order)


def test_text_shorter_than_the_order_is_refused():
    with pytest.raises(UsageError, match="has 3 bytes, fewer than the order 4"):
        train_ngrams(b"abc", 4)


def test_xz_counts_the_bits_of_the_text_alone():
    text = bytes(np.random.default_rng(0).integers(0, 256, 2_000, dtype=np.uint8))
    assert xz_bits_per_byte(text) == 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / 2_000
    assert xz_bits_per_byte(text) > 8
    assert xz_bits_per_byte(text, text) < 0.5  # the receiver has it already


def test_orders_are_scored_on_both_texts_and_chosen_on_one():
    texts = {"train": TEXT, "validation": TEXT[5:60], "test": TEXT[10:80]}
    rows = score_orders(texts, np.array([30, 40]), 3, "bits")
    for order, row in enumerate(rows, 1):
        model = train_ngrams(TEXT, order)[order]
        assert (row["order"], row["validation"]) == (order, model.bits_per_byte(texts["validation"]))
        bits = -model.log2_probabilities(texts["test"])
        np.testing.assert_allclose(row["bits examples"], [[bits[:30].sum(), 30], [bits[30:].sum(), 40]])
        assert row["bits"] == pytest.approx(bits.mean())
    best = min(row["validation"] for row in rows)
    assert [row["chosen"] for row in rows] == [row["validation"] == best for row in rows]
    assert sum(row["chosen"] for row in rows) == 1
