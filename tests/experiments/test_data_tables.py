"""Digits and tables that packages ship: sizes, classes, splits, and what is read where an extra is missing."""

import numpy as np
import pytest

from experiments.data import tables
from experiments.data.mnist5k import read_mnist5k, split_by_class
from train.errors import UsageError


def test_digits_are_500_of_each_in_a_mixed_order():
    images, labels = read_mnist5k()
    assert images.shape == (5_000, 28, 28)
    assert (images.min(), images.max()) == (0, 1)
    assert np.bincount(labels).tolist() == [500] * 10
    assert min(np.bincount(labels[:1_000], minlength=10)) > 50
    small, _ = read_mnist5k(14)
    np.testing.assert_allclose(small[3, 5, 7], images[3, 10:12, 14:16].mean(), rtol=1e-6)


def test_a_side_that_does_not_divide_is_refused():
    with pytest.raises(UsageError, match="must be one of 28, 14, 7, but it is 13"):
        read_mnist5k(13)


def test_parts_are_disjoint_and_have_each_class_in_its_share():
    labels = np.repeat([0, 1, 2], [10, 100, 890])
    parts = split_by_class(labels, (500, 300, 200), seed=3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(1_000))
    for part in parts:
        counts = np.bincount(labels[part], minlength=3)
        assert np.all(np.abs(counts - np.array([0.01, 0.1, 0.89]) * len(part)) <= 1)
    again = split_by_class(labels, (500, 300, 200), seed=4)
    assert set(parts[0]) != set(again[0])
    with pytest.raises(UsageError, match=r"900 \+ 101 examples need more than the 1000"):
        split_by_class(labels, (900, 101), seed=0)


def test_heights_are_numbers_of_which_a_fifth_cannot_be_inches():
    heights = tables.read_heights()
    low, high = tables.PLAUSIBLE
    assert (len(heights), int(np.sum((heights.target < low) | (heights.target > high)))) == (1_014, 211)
    plausible = heights.target[(heights.target >= low) & (heights.target <= high)]
    assert 64 < plausible.mean() < 72
    assert set(np.unique(heights.features)) == {0, 1}


def test_spam_is_rare():
    email = tables.read_email()
    assert (email.features.shape, int(email.target.sum())) == ((3_921, 20), 367)
    assert len(email.columns) == 20
    assert np.isfinite(email.features).all()


def test_without_the_extra_there_is_a_fallback(monkeypatch):
    monkeypatch.setattr(tables, "has_tables", lambda: False)
    assert tables.read_heights() is None
    found = tables.read_email()
    assert (found.name, int(found.target.sum())) == ("breast_cancer", 212)
    assert len(tables.read_diabetes()) == 442


def test_a_constant_column_is_0_once_standardised():
    train, test = tables.standardised(np.array([[1.0, 7.0], [3.0, 7.0]]), np.array([[5.0, 8.0]]))
    assert train.tolist() == [[-1, 0], [1, 0]]
    assert test.tolist() == [[3, 0]]
