"""Losses for noisy labels: known numbers, large vocabularies, temperatures near one, the state of early learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lossfns
from lossfns.noisy_labels.tempered import tempered_normalizer
from tests.oracles.noisy_labels import corrected, tempered


@pytest.mark.parametrize("t2", [0.5, 1.0, 1.2, 2.0, 4.0])
def test_tempered_probabilities_sum_to_one_at_many_classes(t2):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32_000)) * 3, jnp.float32)
    inside = 1 + (1 - t2) * (np.float64(x) - np.float64(tempered_normalizer(x, jnp.float32(t2)))[:, None])
    excess = np.float64(x) - np.float64(tempered_normalizer(x, jnp.float32(t2)))[:, None]
    p = np.exp(excess) if t2 == 1 else np.maximum(inside, 0) ** (1 / (1 - t2))
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)


def test_temperatures_have_slopes_also_at_one():
    logits, labels = np.random.default_rng(1).normal(size=(3, 4)), np.array([0, 1, 2])
    with jax.enable_x64(True):
        for t1, t2 in ((0.8, 1.2), (0.5, 0.7), (0.9999, 1.0001), (1.0, 1.0)):
            slopes = jax.grad(lambda *t: lossfns.bi_tempered(logits, labels, t1=t[0], t2=t[1]).sum(), (0, 1))(t1, t2)
            h = 1e-5
            first = [tempered.bi_tempered(logits, labels, t1=t1 + s, t2=t2).sum() for s in (-h, h)]
            second = [tempered.bi_tempered(logits, labels, t1=t1, t2=t2 + s).sum() for s in (-h, h)]
            for slope, (low, high) in zip(slopes, (first, second), strict=True):
                np.testing.assert_allclose(slope, (high - low) / (2 * h), rtol=1e-4, atol=1e-5)


def test_truncated_rows_have_no_gradient():
    logits = jnp.log(jnp.array([[0.25, 0.75], [0.75, 0.25]]))
    slope = jax.grad(lambda x: lossfns.generalized_cross_entropy(x, jnp.array([0, 0]), truncation=0.5).sum())(logits)
    np.testing.assert_array_equal(slope[0], 0)
    assert np.all(slope[1] != 0)


def test_reverse_cross_entropy_of_the_paper_and_of_the_code_in_circulation():
    logits, labels = jnp.zeros((1, 2)), jnp.array([0])
    paper = lossfns.symmetric_cross_entropy(logits, labels, alpha=0.0)
    code = lossfns.symmetric_cross_entropy(logits, labels, alpha=0.0, log_zero=np.log(1e-4))
    np.testing.assert_allclose(code / paper, 2.3026, rtol=1e-4)


def test_noise_that_is_learnt_has_a_gradient_in_every_row_of_the_matrix():
    def loss(x):
        return lossfns.forward_corrected(jnp.zeros((2, 2)), jnp.array([0, 1]), jax.nn.softmax(x, -1)).sum()

    # At equal odds p(0) = (T00 + T10) / 2, and all gradients vanish by symmetry, but only there.
    np.testing.assert_allclose(jax.grad(loss)(jnp.zeros((2, 2))), 0, atol=1e-6)
    assert np.all(jax.grad(loss)(jnp.array([[1.0, 0.0], [0.5, 0.0]])) != 0)


def test_early_learning_keeps_its_state_and_leaves_masked_rows_alone():
    rng = np.random.default_rng(2)
    logits, labels = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), jnp.array([0, 1, 2])
    state = jnp.full((3, 4), 0.1)
    out = lossfns.early_learning(logits, labels, state, where=jnp.array([True, True, False]))
    expected = corrected.early_targets(np.float64(logits), np.float64(state))
    np.testing.assert_allclose(out.targets[:2], expected[:2], rtol=1e-5)
    np.testing.assert_array_equal(out.targets[2], state[2])
    assert float(out.values[2]) == 0
    full = lossfns.early_learning(logits, labels, state)
    np.testing.assert_allclose(
        full.values, corrected.early_learning(np.float64(logits), labels, np.float64(state)), rtol=1e-5
    )


def test_early_learning_takes_its_targets_for_constants():
    logits, labels, state = jnp.array([[1.0, 0.0]]), jnp.array([0]), jnp.array([[0.3, 0.3]])
    p = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()
    new = 0.7 * np.array([0.3, 0.3]) + 0.3 * p
    inner = p * (new - (p * new).sum())  # slope of <p, t> with t constant
    expected = p - np.array([1.0, 0.0]) - 3 * inner / (1 - (p * new).sum())
    slope = jax.grad(lambda x, t: lossfns.early_learning(x, labels, t).values.sum(), (0, 1))(logits, state)
    np.testing.assert_allclose(slope[0][0], expected, rtol=1e-5)
    np.testing.assert_array_equal(slope[1], 0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_constant_weights_are_constants_of_the_gradient(gamma):
    logits, label = np.random.default_rng(3).normal(size=5), 2
    log_p = logits - np.log(np.exp(logits).sum())
    p = np.exp(log_p)
    slopes = p[None] - np.eye(5)  # of -log p_k by x_j
    weights = (1 - p) ** gamma
    below, above = -(weights * log_p).sum(), -weights[label] * log_p[label]
    expected = (weights[label] * slopes[label] * below - above * (weights @ slopes)) / below**2

    def active(x):
        return lossfns.normalized_active_passive(x, label_of, beta=0.0, gamma=gamma, constant_weights=True)

    label_of = jnp.array(label)
    np.testing.assert_allclose(jax.grad(active)(jnp.asarray(logits, jnp.float32)), expected, rtol=1e-4, atol=1e-6)


def test_constant_weights_survive_sure_rows_and_masked_classes():
    logits = jnp.array([[200.0, 0.0, 0.0], [0.0, -jnp.inf, 1.0], [0.0, 200.0, 0.0]])
    labels = jnp.array([0, 0, 0])

    def total(x):
        return lossfns.normalized_active_passive(x, labels, gamma=0.5, constant_weights=True).sum()

    assert np.isfinite(total(logits))
    assert np.isfinite(jax.grad(total)(logits)).all()
