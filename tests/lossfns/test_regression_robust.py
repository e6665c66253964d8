"""Barron's loss where its formula has no value, and errors so small that only their square is left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossfns import adaptive_barron, barron, gaussian_nll, log_cosh, poisson_nll, smooth_l1


def by_alpha(error, alpha, loss=barron):
    return float(jax.grad(lambda a: loss(jnp.float32(error), alpha=a))(jnp.float32(alpha)))


def test_the_gradient_of_alpha_at_0_is_its_limit_and_at_2_large_and_finite():
    # By hand at 0 with z = x^2: (log(1 + z/2))^2 / 4 - log(1 + z/2) / 2 + z / (2 (2 + z)) by expanding in alpha.
    z = 9.0
    u = np.log1p(z / 2)
    expected = u**2 / 4 - u / 2 + z / (2 * (2 + z))
    np.testing.assert_allclose(by_alpha(3.0, 0.0), expected, rtol=1e-5)
    at_two, nearby = by_alpha(3.0, 2.0), by_alpha(3.0, 1.999)
    assert np.isfinite(at_two)
    assert at_two > nearby > 0
    assert by_alpha(3.0, -np.inf) == 0.0


def test_the_gradient_of_the_scale_is_that_of_the_error_turned_round():
    by_error, by_scale = jax.grad(lambda x, c: barron(x, alpha=0.5, scale=c), argnums=(0, 1))(3.0, 2.0)
    np.testing.assert_allclose(by_scale, -by_error * 3.0 / 2.0, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0, 1.9])
def test_learning_alpha_finds_no_slope_in_samples_of_its_own_distribution(alpha):
    # The expected score is 0: the loss's slope by alpha, averaged over its own density, cancels log Z's.
    x = np.sinh(np.linspace(-30, 30, 20001)).astype(np.float64)
    with jax.enable_x64(True):
        density = np.exp(-np.asarray(adaptive_barron(jnp.asarray(x), alpha=alpha)))
        slopes = jax.jvp(lambda a: adaptive_barron(jnp.asarray(x), alpha=a), (jnp.asarray(alpha),), (jnp.ones(()),))[1]
    weights = np.gradient(x) * density
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose((weights * np.asarray(slopes)).sum(), 0, atol=1e-5)


def test_small_errors_in_bfloat16_keep_their_gradient():
    error = jnp.array([2.0**-12, -(2.0**-20)], jnp.bfloat16)
    for loss in (log_cosh, smooth_l1):
        slope = jax.grad(lambda e, loss=loss: loss(e, jnp.zeros_like(e)).sum())(error)
        np.testing.assert_array_equal(np.float32(slope), np.float32(error))


def test_smooth_l1_without_a_bottom_is_flat_at_zero():
    slopes = jax.vmap(jax.grad(lambda e: smooth_l1(e, jnp.array(0.0), beta=0.0)))(jnp.array([-2.0, 0.0, 2.0]))
    np.testing.assert_array_equal(slopes, [-1.0, 0.0, 1.0])


def test_beta_one_gives_the_means_the_gradient_of_the_squared_error():
    slope = jax.grad(lambda mean: gaussian_nll(mean, jnp.float32(3.0), jnp.float32(1.0), beta=1.0))(jnp.float32(5.0))
    np.testing.assert_allclose(slope, 4.0, rtol=1e-6)


def test_the_full_poisson_likelihood_sums_to_one():
    counts = jnp.arange(60.0)
    total = jnp.exp(-poisson_nll(jnp.full(60, jnp.log(7.0)), counts, full=True)).sum()
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)
