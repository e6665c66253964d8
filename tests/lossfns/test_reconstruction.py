"""Restoring losses: random corruption counted, and numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossfns import beta_vae, corrupt, diffusion, masked_patches, simmim, weighted_mean

KEY = jax.random.key(0)


def test_gaussian_noise_has_the_wanted_moments():
    noise = corrupt(KEY, jnp.full((100, 100), 3.0), scale=0.5) - 3
    # The mean of 10,000 draws is within five standard errors, 0.025, and their deviation within 3.5 per cent.
    np.testing.assert_allclose(noise.mean(), 0, atol=0.025)
    np.testing.assert_allclose(noise.std(), 0.5, rtol=0.036)


@pytest.mark.parametrize("kind", ["mask", "salt_pepper"])
def test_the_wanted_share_is_replaced_and_the_rest_untouched(kind):
    images = corrupt(KEY, jnp.full((100, 100), 0.5), kind=kind, rate=0.3)
    share = {float(value): float((images == value).mean()) for value in np.unique(images)}
    expected = {0.0: 0.3, 0.5: 0.7} if kind == "mask" else {0.0: 0.15, 0.5: 0.7, 1.0: 0.15}
    assert share.keys() == expected.keys()
    np.testing.assert_allclose([share[k] for k in expected], list(expected.values()), atol=0.023)


@pytest.mark.parametrize("kind", ["gaussian", "mask", "salt_pepper"])
def test_images_keep_their_dtype_and_what_is_replaced_gets_no_gradient(kind):
    images = jnp.full((4, 4), 0.5, jnp.bfloat16)
    noisy = corrupt(KEY, images, kind=kind, rate=0.5)
    assert noisy.dtype == jnp.bfloat16
    slope = jax.grad(lambda x: corrupt(KEY, x, kind=kind, rate=0.5).sum())(images)
    kept = np.ones((4, 4)) if kind == "gaussian" else np.asarray(noisy) == 0.5
    np.testing.assert_array_equal(np.float32(slope), kept)


def test_normalised_pixels_have_the_unbiased_variance_and_the_epsilon_in_the_root():
    # Mean 2, squares of deviations 2, over 3: variance 2/3. With epsilon 1/3 the root is 1.
    patch = jnp.array([[1.0, 2.0, 2.0, 3.0]])
    value = masked_patches(jnp.zeros((1, 4)), patch, norm_pix=True, eps=1 / 3)
    np.testing.assert_allclose(value, [0.5], rtol=1e-6)


def test_mae_and_simmim_are_means_over_the_masked_patches_of_the_batch():
    # One masked patch in the first image, three in the second: 4 and 1, 1, 1 have the mean 7/4; 4 and 1 have 5/2.
    predictions = jnp.array([[[2.0], [9.0], [9.0]], [[1.0], [1.0], [-1.0]]])
    masked = jnp.array([[True, False, False], [True, True, True]])
    values = masked_patches(predictions, jnp.zeros((2, 3, 1)), where=masked)
    np.testing.assert_allclose(weighted_mean(values, masked), 7 / 4, rtol=1e-6)
    values = simmim(predictions, jnp.zeros((2, 3, 1)), where=masked)
    np.testing.assert_allclose(weighted_mean(values, masked), 5 / 4, rtol=1e-6)


def test_kl_to_the_prior_by_hand():
    # Mean 2 and variance e: (4 + e - 1 - 1) / 2. A decoder without a pixel wrong at odds of 1 costs log 2 each.
    value = beta_vae(jnp.zeros((1, 3)), jnp.ones((1, 3)), jnp.array([[2.0]]), jnp.array([[1.0]]), beta=4.0)
    np.testing.assert_allclose(value, [3 * np.log(2) + 4 * (2 + np.e) / 2], rtol=1e-6)


def test_a_normal_likelihood_is_a_density():
    # The density of 0 under a standard normal is 0.3989.
    zero = jnp.zeros((1, 1))
    np.testing.assert_allclose(jnp.exp(-beta_vae(zero, zero, zero, zero, likelihood="gaussian")), [0.39894], rtol=1e-5)


def test_min_snr_weights():
    # SNR of 9 at alpha-bar 0.9: clipped at 5 that is 5 for the clean example, 5/9 for noise and 5/10 for velocity.
    one, zero, time = jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.array([0.9])
    for target, weight in (("clean", 5.0), ("noise", 5 / 9), ("velocity", 0.5)):
        value = diffusion(one, zero, zero, time, target=target, min_snr=5.0)
        np.testing.assert_allclose(value, [weight], rtol=1e-5)
