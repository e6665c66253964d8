"""Losses on sequences: known numbers, gradients at the edges, and inputs that the fast form must hand over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossfns import crf_marginals, crf_viterbi, ctc, linear_chain_crf, rnn_transducer, soft_dtw
from lossfns.sequence import _chain

INF = np.inf


def test_ctc_infeasible_labels_have_no_gradient():
    logits, labels = jnp.zeros((1, 2, 3)), jnp.array([[1, 1]])
    for zero, expected in ((False, INF), (True, 0.0)):
        value, slope = jax.value_and_grad(lambda x, zero=zero: ctc(x, labels, zero_infinity=zero).sum())(logits)
        assert value == expected
        assert not slope.any()


def test_ctc_is_never_negative_and_exact_over_many_frames():
    # Two symbols with equal scores: each of the C(T + L, 2 L) alignments of L distinct neighbours has 2^-T.
    frames = 400
    value = ctc(jnp.zeros((frames, 2)), jnp.array([1]))
    np.testing.assert_allclose(value, frames * np.log(2) - np.log(frames * (frames + 1) / 2), rtol=2e-6)
    sure = 50.0 * jax.nn.one_hot(jnp.array([1, 0, 2, 2]), 3)
    assert 0 <= ctc(sure, jnp.array([1, 2])) < 1e-20


def test_ctc_takes_any_leading_axes():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 3)), jnp.float32)
    labels = jnp.ones((2, 3, 1), int)
    np.testing.assert_allclose(ctc(logits, labels)[1, 2], ctc(logits[1, 2], labels[1, 2]), rtol=1e-6)


def test_transducer_with_one_symbol_counts_paths():
    # T frames and L labels at equal odds: C(T + L - 1, L) paths of T + L moves of 1/2 each.
    value = rnn_transducer(jnp.zeros((4, 3, 2)), jnp.array([1, 1]))
    np.testing.assert_allclose(value, 6 * np.log(2) - np.log(10), rtol=1e-6)


def test_soft_dtw_gradient_at_equal_series_is_finite():
    x = jnp.ones((3, 2))
    assert jnp.isfinite(jax.grad(soft_dtw)(x, x)).all()


def exact(x, a):
    """float64 log-sum-exp over all pairs."""
    x, a = np.asarray(x, np.float64), np.asarray(a, np.float64)
    alpha = x[0]
    for row in x[1:]:
        ways = alpha[:, None] + a
        top = ways.max(0)
        shift = np.where(np.isinf(top), 0, top)
        with np.errstate(divide="ignore"):
            alpha = shift + np.log(np.exp(ways - shift).sum(0)) + row
    top = alpha.max()
    return top + np.log(np.exp(alpha - top).sum())


@pytest.mark.parametrize(("spread", "handed_over"), [(1.0, False), (20.0, False), (400.0, True)])
def test_crf_fast_form_is_exact_or_handed_over(spread, handed_over):
    rng = np.random.default_rng(1)
    x, a = rng.normal(size=(12, 1, 6)).astype(np.float32), (spread * rng.normal(size=(6, 6))).astype(np.float32)
    a[rng.random((6, 6)) < 0.2] = -INF
    first = np.arange(12)[:, None] == 0
    forward = _chain._forward(jnp.asarray(x), jnp.asarray(a), first, np.ones((12, 1), bool))
    assert bool(forward.safe) is not handed_over
    value = _chain.log_partition(jnp.asarray(x), jnp.asarray(a), first, np.ones((12, 1), bool))
    np.testing.assert_allclose(value[0], exact(x[:, 0], a), rtol=3e-6)


def test_crf_gradient_by_shared_transitions_sums_over_the_batch():
    rng = np.random.default_rng(2)
    x, a = jnp.asarray(rng.normal(size=(3, 5, 4)), jnp.float32), jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)
    tags = jnp.asarray(rng.integers(0, 4, (3, 5)))
    shared = jax.grad(lambda a: linear_chain_crf(x, a, tags).sum())(a)
    own = jax.grad(lambda a: linear_chain_crf(x, a, tags).sum())(jnp.broadcast_to(a, (3, 4, 4)))
    np.testing.assert_allclose(shared, own.sum(0), rtol=1e-4, atol=1e-5)


def test_decoder_and_marginals_name_what_is_wrong():
    for function in (crf_viterbi, crf_marginals):
        with pytest.raises(ValueError, match=r"transitions must have the shape \(3, 3\).*got \(4, 4\)"):
            function(jnp.zeros((5, 3)), jnp.zeros((4, 4)))
        with pytest.raises(TypeError, match="emissions must have a floating dtype, got int32"):
            function(jnp.zeros((5, 3), int), jnp.zeros((3, 3)))
        with pytest.raises(ValueError, match=r"end must have the shape \(3,\).*got \(2,\)"):
            function(jnp.zeros((5, 3)), jnp.zeros((3, 3)), end=jnp.zeros(2))


def test_a_length_out_of_range_is_nan():
    x, a = jnp.zeros((2, 5, 3)), jnp.zeros((3, 3))
    lengths = jnp.array([6, 5])
    assert np.isnan(crf_viterbi(x, a, lengths).score).tolist() == [True, False]
    assert np.isnan(crf_marginals(x, a, lengths)).any((1, 2)).tolist() == [True, False]


def test_gradient_of_soft_dtw_keeps_its_digits_over_long_series():
    """Shares of the ways into a cell that add up to 1 but for a rounding lose ten times as many along a path."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 256, 8)).astype(np.float32)
    slope = jax.grad(lambda x, y: soft_dtw(x, y, gamma=0.1))
    with jax.enable_x64(True):
        exact = slope(jnp.asarray(x, jnp.float64), jnp.asarray(y, jnp.float64))
    np.testing.assert_allclose(slope(jnp.asarray(x), jnp.asarray(y)), exact, atol=8e-6 * np.abs(exact).max())
