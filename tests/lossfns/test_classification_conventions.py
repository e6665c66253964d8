"""Focal, margin, long-tailed losses and divergences: known numbers, conventions, what only run time can see."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lossfns

INF = np.inf


def test_sigmoid_focal_is_optax_for_whole_targets():
    logits = jnp.linspace(-6.0, 6.0, 13)
    for answer in (0, 1):
        targets = jnp.full(13, answer)
        ours = lossfns.sigmoid_focal(logits, targets, alpha=0.25, gamma=2.0)
        theirs = optax.sigmoid_focal_loss(logits, targets.astype(jnp.float32), alpha=0.25, gamma=2.0)
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_focal_gradients_are_finite_at_certainty(gamma):
    sure = jnp.array([200.0, 0.0])
    value, slope = jax.value_and_grad(lossfns.focal)(sure, jnp.array(0), gamma=gamma)
    assert float(value) == 0
    np.testing.assert_array_equal(slope, 0)
    value, slope = jax.value_and_grad(lossfns.sigmoid_focal)(jnp.array(200.0), jnp.array(1), gamma=gamma)
    assert float(value) == 0
    np.testing.assert_allclose(slope, 0, atol=1e-30)


def test_sigmoid_focal_has_digits_where_it_is_small():
    logits = np.linspace(-12, 12, 401)
    p, q = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(logits))
    exact = -(q**2) * np.log(p)
    slope = q**2 * (2 * p * np.log(p) - q)
    targets = jnp.ones(401, bool)
    values = lossfns.sigmoid_focal(jnp.float32(logits), targets, alpha=None)
    np.testing.assert_allclose(values, exact, rtol=1e-5)
    actual = jax.grad(lambda x: lossfns.sigmoid_focal(x, targets, alpha=None).sum())(jnp.float32(logits))
    np.testing.assert_allclose(actual, slope, rtol=1e-5)


def test_sigmoid_focal_slope_of_gamma():
    # d/dgamma of 2^-gamma log 2.
    slope = jax.grad(lambda g: lossfns.sigmoid_focal(jnp.array(0.0), jnp.array(1), gamma=g, alpha=None))(1.0)
    np.testing.assert_allclose(slope, -(np.log(2) ** 2) / 2, rtol=1e-6)


def test_sigmoid_focal_keeps_little_in_memory():
    x, t = jax.ShapeDtypeStruct((1 << 20,), jnp.float32), jax.ShapeDtypeStruct((1 << 20,), jnp.bool_)
    run = jax.jit(jax.value_and_grad(lambda x, t: lossfns.sigmoid_focal(x, t).sum()))
    assert run.lower(x, t).compile().memory_analysis().temp_size_in_bytes <= 1.1 * 4 * (1 << 20)


@pytest.mark.parametrize("constant", [False, True])
def test_asymmetric_gradient_with_and_without_that_of_its_weights(constant):
    # p = 1/2, gamma+ = 1: the loss is -(1 - p) log p, and dp/dx = 1/4.
    def loss(x):
        return lossfns.asymmetric(x, jnp.array(1), gamma_positive=1.0, constant_weights=constant)

    expected = -0.25 if constant else -0.25 - 0.25 * np.log(2)
    np.testing.assert_allclose(jax.grad(loss)(jnp.array(0.0)), expected, rtol=1e-6)


def test_hinges_are_optax():
    logits = jnp.array([[0.3, -0.2, 1.1], [2.5, 0.1, 0.2]])
    labels = jnp.array([0, 0])
    np.testing.assert_allclose(
        lossfns.multiclass_hinge(logits, labels), optax.losses.multiclass_hinge_loss(logits, labels), rtol=1e-6
    )
    np.testing.assert_allclose(
        lossfns.sparsemax(logits, labels), optax.losses.multiclass_sparsemax_loss(logits, labels), rtol=1e-5, atol=1e-7
    )
    scores, signs = jnp.array([0.5, -2.0]), jnp.array([1, 1])
    np.testing.assert_allclose(lossfns.hinge(scores, signs), optax.hinge_loss(scores, signs), rtol=1e-6)


def test_hinges_name_both_sides():
    with pytest.raises(ValueError, match=r"targets must have the shape \(3,\) of predictions, got \(2,\)"):
        lossfns.hinge(jnp.zeros(3), jnp.ones(2))
    with pytest.raises(ValueError, match=r"where must have the shape \(3,\) of the result, got \(2,\)"):
        lossfns.squared_hinge(jnp.zeros(3), jnp.ones(3), where=jnp.ones(2, bool))


def test_sparsemax_slope_is_the_projection_less_one_at_the_label():
    slope = jax.grad(lossfns.sparsemax)(jnp.array([1.0, 0.5, -3.0]), jnp.array(1))
    np.testing.assert_allclose(slope, [0.75, 0.25 - 1, 0.0], atol=1e-6)


def test_wrong_counts_spoil_all_rows_and_nothing_that_is_masked():
    logits, labels = jnp.zeros((2, 3)), jnp.array([0, 1])
    for counts in ([1.0, -1.0, 1.0], [1.0, INF, 1.0], [0.0, 0.0, 0.0]):
        assert np.isnan(lossfns.balanced_softmax(logits, labels, jnp.array(counts))).all()
        masked = lossfns.balanced_softmax(logits, labels, jnp.array(counts), where=jnp.zeros(2, bool))
        np.testing.assert_array_equal(masked, 0)
    assert np.isnan(lossfns.ldam(logits, labels, jnp.array([1, 0, 1]))).tolist() == [False, True]
    assert np.isnan(lossfns.class_balanced_weights(jnp.array([1, -1]))).all()


def test_kl_is_the_mean_under_the_target():
    # p = [0.9, 0.1], q = [0.8, 0.2].
    p, q = jnp.log(jnp.array([0.9, 0.1])), jnp.log(jnp.array([0.8, 0.2]))
    forward = 0.9 * np.log(0.9 / 0.8) + 0.1 * np.log(0.1 / 0.2)
    np.testing.assert_allclose(lossfns.kl_divergence(q, p), forward, rtol=1e-5)
    np.testing.assert_allclose(lossfns.kl_divergence(p, q), 0.8 * np.log(0.8 / 0.9) + 0.2 * np.log(2), rtol=1e-5)
    cross_entropy = lossfns.soft_cross_entropy(jnp.log(jnp.array([0.8, 0.2])), jnp.array([0.9, 0.1]))
    np.testing.assert_allclose(cross_entropy, 0.3618, atol=5e-5)


def test_label_smoothing_of_one_row_with_masked_classes_leaves_the_others_alone():
    logits = jnp.array([[1.0, 0.0, -1.0], [1.0, 0.0, -INF]])
    labels = jnp.array([0, 0])
    for over in ("all", "others"):
        both = lossfns.softmax_cross_entropy(logits, labels, label_smoothing=0.2, smoothing_over=over)
        first = lossfns.softmax_cross_entropy(logits[:1], labels[:1], label_smoothing=0.2, smoothing_over=over)
        np.testing.assert_allclose(both[0], first[0], rtol=1e-6)


@pytest.mark.parametrize("x", [0.0, -1.5, 1.5, 20.0])
def test_curvature_of_sigmoid_focal(x):
    """With q = 1 - p and gamma 2, the second derivative of -q^2 log p is 5 p q^3 + (4 p^2 q^2 - 2 p q^3) (-log p)."""
    p, q = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))
    curvature = 5 * p * q**3 - (4 * p**2 * q**2 - 2 * p * q**3) * np.log(p)
    actual = jax.grad(jax.grad(lambda x: lossfns.sigmoid_focal(x, jnp.array(1), alpha=None)))(jnp.float32(x))
    np.testing.assert_allclose(actual, curvature, rtol=1e-5)


def test_weights_of_classes_with_smoothing_as_torch_defines_them():
    rng = np.random.default_rng(4)
    logits, labels, weights, epsilon = rng.normal(size=(6, 3)), rng.integers(0, 3, 6), np.array([0.5, 1.0, 3.0]), 0.2
    nats = np.log(np.exp(logits).sum(-1, keepdims=True)) - logits
    expected = (1 - epsilon) * weights[labels] * nats[np.arange(6), labels] + epsilon / 3 * (weights * nats).sum(-1)
    smoothed = (1 - epsilon) * np.eye(3)[labels] + epsilon / 3
    values = lossfns.soft_cross_entropy(jnp.asarray(logits), jnp.asarray(weights * smoothed))
    np.testing.assert_allclose(values, expected, rtol=1e-5)
