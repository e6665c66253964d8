"""Overlap losses where a class is all but absent: its probabilities are tiny, and count for nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lossfns

LOSSES = {
    "soft_f1": lossfns.soft_f1,
    "dice": functools.partial(lossfns.dice, squared=False, over="batch"),
    "dice, squared": functools.partial(lossfns.dice, over="batch"),
    "generalized_dice": functools.partial(lossfns.generalized_dice, over="batch"),
    "tversky": functools.partial(lossfns.tversky, over="batch"),
    "focal_tversky": functools.partial(lossfns.focal_tversky, over="batch"),
    "lovasz_softmax": lossfns.lovasz_softmax,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("absent", ["skip", "keep"])
def test_a_class_whose_probabilities_square_to_0_leaves_the_gradient_finite(name, absent):
    """Class 2 has no true place and probabilities of e^-50: their sum is 1e-22, of which the square is 0 in float32."""
    if name == "generalized_dice":
        absent = {"skip": "skip", "keep": "largest"}[absent]
    logits = jnp.array([[0.0, 0.5, -50.0], [0.3, 0.0, -50.0], [0.0, 0.1, -55.0]])
    labels = jnp.array([0, 1, 1])

    @jax.jit
    def mean(x):
        return LOSSES[name](x, labels, absent=absent).mean()

    value, gradient = jax.value_and_grad(mean)(logits)
    assert np.isfinite(value)
    assert np.isfinite(np.asarray(gradient)).all()
    assert np.abs(gradient[:, :2]).max() > 1e-3
    if absent == "skip":  # the class adds nothing: the same as without it
        expected = jax.grad(lambda x: LOSSES[name](x, labels, absent=absent).mean())(logits[:, :2])
        np.testing.assert_allclose(gradient[:, :2], expected, rtol=1e-5, atol=1e-7)
