"""Regression errors against numbers made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossfns import absolute_error, huber, squared_error


def test_squared_error_has_no_half():
    value, slope = jax.value_and_grad(squared_error)(jnp.array(5.0), jnp.array(2.0))
    assert (float(value), float(slope)) == (9.0, 6.0)


def test_absolute_error_is_flat_where_it_is_zero():
    slopes = jax.vmap(jax.grad(absolute_error))(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 2.0, 2.0]))
    np.testing.assert_array_equal(slopes, [-1.0, 0.0, 1.0])


@pytest.mark.parametrize("delta", [0.5, 1.0, 3.0])
def test_huber_on_both_sides_and_at_the_joint(delta):
    errors = np.array([-10.0, -delta, -0.1, 0.0, 0.1, delta, 10.0], np.float32)
    size = np.abs(errors.astype(np.float64))
    expected = np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))
    values = huber(jnp.asarray(errors), jnp.zeros(7), delta=delta)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    slopes = jax.vmap(jax.grad(lambda e: huber(e, jnp.array(0.0), delta=delta)))(jnp.asarray(errors))
    np.testing.assert_allclose(slopes, np.clip(errors, -delta, delta), rtol=1e-6)


def test_huber_of_a_huge_error_is_finite():
    value, slope = jax.value_and_grad(huber)(jnp.array(1e25), jnp.array(0.0))
    np.testing.assert_allclose([value, slope], [1e25, 1.0], rtol=1e-6)


def test_half_precision_is_subtracted_in_float32():
    # 2049 is no float16: the difference of its neighbours must come from the inputs, and its square must not overflow.
    values = squared_error(jnp.array([1000.0], jnp.float16), jnp.array([-1000.0], jnp.float16))
    assert values.dtype == jnp.float32
    assert float(values[0]) == 4e6


def test_integer_targets_are_allowed_and_integer_predictions_are_not():
    assert float(squared_error(jnp.array(1.5), jnp.array(2))) == 0.25
    with pytest.raises(TypeError, match="predictions must have a floating dtype, got int32"):
        squared_error(jnp.array(1), jnp.array(2.0))


@pytest.mark.parametrize("loss", [squared_error, absolute_error, huber])
def test_shapes_are_not_broadcast(loss):
    with pytest.raises(ValueError, match=r"targets must have the shape \(3,\) of predictions, got \(3, 1\)"):
        loss(jnp.zeros(3), jnp.zeros((3, 1)))


@pytest.mark.parametrize("delta", [0, -1.0, np.inf, np.nan])
def test_huber_refuses_a_delta_that_is_not_positive(delta):
    with pytest.raises(ValueError, match="delta must be positive and finite"):
        huber(jnp.zeros(3), jnp.zeros(3), delta=delta)
