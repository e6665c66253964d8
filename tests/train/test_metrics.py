import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as sk

from train import UsageError, metrics

RNG = np.random.default_rng(0)
LABELS = RNG.choice(5, 200, p=[0.5, 0.3, 0.1, 0.1, 0.0])
PREDICTIONS = np.where(RNG.random(200) < 0.6, LABELS, RNG.integers(0, 4, 200))  # class 4 never occurs


def confusion(where=None):
    return np.asarray(metrics.confusion_term(PREDICTIONS, LABELS, 5, where=where).sums()[0])


def test_means_divide_on_the_host():
    result = metrics.means(
        {"a": (jnp.float32(3), jnp.float32(2)), "b": (0.0, 0.0), "counts": (jnp.ones(3), jnp.ones(3))}
    )
    assert math.isnan(result.pop("b"))
    assert result == {"a": 1.5}
    assert isinstance(result["a"], float)


def test_accumulate_adds_sums_not_means():
    total = None
    for values in ([1.0, 2.0, 3.0], [10.0]):
        total = metrics.accumulate(total, {"x": (jnp.float32(sum(values)), jnp.float32(len(values)))})
    assert metrics.means(total) == {"x": 4.0}


def test_accumulate_keeps_counting_where_float32_stops():
    total = metrics.accumulate(None, {"x": (2.0**24, 2.0**24)})
    for _ in range(3):
        total = metrics.accumulate(total, {"x": (jnp.float32(1), jnp.float32(1))})
    assert total["x"][1] == 2**24 + 3


def test_accumulate_does_not_change_what_it_is_given():
    total = metrics.accumulate(None, {"x": (np.ones(2), np.ones(2))})
    metrics.accumulate(total, {"x": (np.ones(2), np.ones(2))})
    assert total["x"][0].tolist() == [1.0, 1.0]


def test_accumulate_refuses_other_names():
    with pytest.raises(UsageError, match="cannot be added"):
        metrics.accumulate({"x": (1.0, 1.0)}, {"y": (1.0, 1.0)})


def test_weighted_loss_has_a_denominator_for_each_term():
    sums = {"a": (6.0, 4.0), "b": (2.0, 1.0), "none": (0.0, 0.0)}
    assert metrics.weighted_loss(sums, {"a": 2.0, "b": 0.5, "none": 3.0}) == 2 * 1.5 + 0.5 * 2


def test_perplexity_and_bits():
    assert metrics.perplexity((5 * math.log(3), 5)) == pytest.approx(3)
    assert metrics.perplexity((1e6, 1)) == math.inf
    assert math.isnan(metrics.perplexity((0.0, 0.0)))
    assert metrics.bits_per_byte((8 * math.log(256), 8), 8) == pytest.approx(8)


def test_confusion_matrix():
    np.testing.assert_array_equal(confusion(), sk.confusion_matrix(LABELS, PREDICTIONS, labels=range(5)))


def test_confusion_matrix_of_the_valid():
    where = RNG.random(200) < 0.5
    expected = sk.confusion_matrix(LABELS[where], PREDICTIONS[where], labels=range(5))
    np.testing.assert_array_equal(confusion(where), expected)


def test_confusion_ignores_what_is_out_of_range():
    term = metrics.confusion_term(jnp.array([0, 5, -1, 1]), jnp.array([-100, 0, 0, 1]), 2)
    np.testing.assert_array_equal(term.sums()[0], [[0, 0], [0, 1]])


def test_confusion_under_jit_of_2d_arrays():
    count = jax.jit(lambda p, y: metrics.confusion_term(p, y, 5).sums()[0])
    np.testing.assert_array_equal(count(PREDICTIONS.reshape(20, 10), LABELS.reshape(20, 10)), confusion())


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_scores_are_scikit_learns(name, average):
    expected = getattr(sk, f"{name}_score")(LABELS, PREDICTIONS, average=average, zero_division=0)
    assert getattr(metrics, name)(confusion(), average) == pytest.approx(expected, abs=1e-12)


def test_accuracy():
    assert metrics.accuracy(confusion()) == pytest.approx(np.mean(LABELS == PREDICTIONS))


def test_f1_from_counts_of_a_multi_label_task():
    labels, predictions = RNG.random((50, 4)) < 0.3, RNG.random((50, 4)) < 0.4
    tp, fp, fn = (labels & predictions).sum(0), (~labels & predictions).sum(0), (labels & ~predictions).sum(0)
    np.testing.assert_allclose(metrics.f1_from_counts(tp, fp, fn), sk.f1_score(labels, predictions, average=None))


def test_zero_over_zero_is_zero():
    assert metrics.f1_from_counts(0, 0, 0) == 0
    assert metrics.precision_from_counts(0, 0) == 0
    assert metrics.recall_from_counts(0, 0) == 0


@pytest.mark.parametrize("score", [metrics.accuracy, metrics.precision, metrics.recall, metrics.f1])
def test_empty_matrix_is_nan(score):
    assert math.isnan(score(np.zeros((3, 3))))


def test_unknown_average():
    with pytest.raises(UsageError, match="'weighted' is unknown"):
        metrics.f1(confusion(), "weighted")
