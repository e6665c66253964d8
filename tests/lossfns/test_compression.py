"""Quantisation and sparsity: gradients that finite differences cannot see, and draws that can be counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lossfns


def test_gradients_of_fake_quantize_are_those_of_lsq():
    # Grid -4 .. 3 with a step of 0.5: below, at and inside the grid, and above it.
    x = jnp.array([-3.0, -2.0, -0.6, 0.3, 0.8, 9.0])

    def total(x, step, **options):
        return lossfns.fake_quantize(x, bits=3, scale=step, **options).sum()

    by_x, by_step = jax.grad(total, argnums=(0, 1))(x, jnp.float32(0.5))
    np.testing.assert_allclose(by_x, [0, 0, 1, 1, 1, 0], rtol=1e-6)
    expected = -4 - 4 + (-1 + 1.2) + (1 - 0.6) + (2 - 1.6) + 3
    np.testing.assert_allclose(by_step, expected / np.sqrt(6 * 3), rtol=1e-5)
    plain = jax.grad(lambda s: total(x, s, scale_gradient="plain"))(jnp.float32(0.5))
    np.testing.assert_allclose(plain, expected, rtol=1e-5)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("options", [{}, {"symmetric": False}, {"symmetric": False, "signed": False}], ids=str)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_range_chosen_for_all_weights_has_all_of_them_inside(bits, options, axis):
    draws = jax.random.normal(jax.random.key(bits), (200, 8, 5)) * 10.0 ** jnp.arange(-10, 10, 0.1).reshape(200, 1, 1)

    def total(x):
        return lossfns.fake_quantize(x, bits=bits, axis=axis, **options).sum()

    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(total)))(draws), np.ones(draws.shape), rtol=1e-6)


def test_without_a_sign_negative_weights_are_outside():
    x = jnp.array([-1.0, -0.1, 0.3, 0.7, 7.1])
    for bits in (1, 2, 4, 8):
        slope = jax.grad(lambda x, bits=bits: lossfns.fake_quantize(x, bits=bits, signed=False).sum())(x)
        np.testing.assert_allclose(slope, [0, 0, 1, 1, 1], rtol=1e-6)


def test_gradients_of_one_bit_and_of_a_moved_grid():
    x = jnp.array([-3.0, -0.2, 0.4, 0.9])

    def total(x, step, **options):
        return lossfns.fake_quantize(x, scale=step, scale_gradient="plain", **options).sum()

    # One bit, -0.5 or 0.5: only what is nearer to 0 is inside.
    by_x, by_step = jax.grad(total, argnums=(0, 1))(x, jnp.float32(0.5), bits=1)
    np.testing.assert_allclose(by_x, [0, 1, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(by_step, -1 + (-1 + 0.4) + (1 - 0.8) + 1, rtol=1e-5)
    # Levels -4 .. 3 moved by 3 are -7 .. 0 steps of 0.5.
    by_x, by_step = jax.grad(total, argnums=(0, 1))(x, jnp.float32(0.5), bits=3, zero_point=3)
    np.testing.assert_allclose(by_x, [1, 1, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(by_step, (-6 + 6) + (0 + 0.4) + 0 + 0, rtol=1e-5, atol=1e-6)


def test_zero_is_a_level_of_every_range():
    x = jax.random.normal(jax.random.key(0), (100, 20)) + 0.7
    x = x.at[:, 0].set(0)
    for bits in (1, 2, 4, 8):
        values = lossfns.fake_quantize(x, bits=bits, symmetric=False, axis=0)
        assert not np.any(values[:, 0])
        spans = jnp.maximum(x.max(1), 0) - jnp.minimum(x.min(1), 0)
        assert np.all(np.abs(values - x) <= 1.0001 * spans[:, None] / (2**bits - 1))


def test_steps_of_channels_have_gradients_of_their_own():
    x = jnp.array([[0.3, 30.0], [-0.2, -8.0], [5.0, 7.0]])
    steps = jnp.array([0.25, 10.0])

    def total(step, x, axis):
        return lossfns.fake_quantize(x, bits=4, scale=step, axis=axis).sum()

    together = jax.grad(total)(steps, x, 1)
    alone = [jax.grad(total)(steps[i], x[:, i], None) for i in range(2)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_a_step_that_is_not_positive_is_not_a_step():
    def quantized(scale):
        return lossfns.fake_quantize(jnp.ones((2, 2)), bits=4, scale=scale, axis=1)

    steps = jnp.array([1.0, -1.0])
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        quantized(steps)
    np.testing.assert_array_equal(np.isnan(jax.jit(quantized)(steps)), [[False, True]] * 2)


@pytest.mark.parametrize("location", [-1.0, 0.0, 2.0])
def test_drawn_gates_are_open_as_often_as_the_penalty_says(location):
    log_alpha = jnp.full(20_000, location)
    gates = lossfns.hard_concrete_gates(jax.random.key(0), log_alpha)
    assert float(gates.min()) >= 0
    assert float(gates.max()) <= 1
    open_share = lossfns.l0_hard_concrete(log_alpha) / 20_000
    np.testing.assert_allclose((gates > 0).mean(), open_share, atol=0.01)
    # P(z = 1) by the same formula, mirrored.
    np.testing.assert_allclose((gates < 1).mean(), lossfns.l0_hard_concrete(-log_alpha) / 20_000, atol=0.01)


def test_gradient_of_a_drawn_gate_is_that_of_its_formula():
    key, log_alpha = jax.random.key(1), jnp.linspace(-2, 2, 9)
    slope = jax.grad(lambda x: lossfns.hard_concrete_gates(key, x).sum())(log_alpha)
    noise = jax.random.logistic(key, (9,))
    s = jax.nn.sigmoid((log_alpha + noise) * 1.5)
    inside = (1.2 * s - 0.1 > 0) & (1.2 * s - 0.1 < 1)
    np.testing.assert_allclose(slope, jnp.where(inside, 1.2 * s * (1 - s) * 1.5, 0), rtol=1e-4, atol=1e-7)


def test_kurtosis_of_a_uniform_grid_is_near_its_target():
    value = lossfns.kurtosis_penalty({"w": jnp.linspace(-1, 1, 10_001)})
    assert float(value) < 1e-6


def test_movement_scores_are_what_descent_on_the_scores_does():
    # Straight-through masks: the gradient of the score is the gradient of the masked weight times the weight.
    w, x = jnp.array([2.0, -1.0, 0.5]), jnp.array([1.0, 2.0, -3.0])
    slopes = jax.grad(lambda w: jnp.square(w @ x - 1))(w)
    by_score = jax.grad(lambda m: jnp.square((w * m) @ x - 1))(jnp.ones(3))
    np.testing.assert_allclose(lossfns.movement_scores(jnp.zeros(3), w, slopes, rate=0.1), -0.1 * by_score, rtol=1e-6)
