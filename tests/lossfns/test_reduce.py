"""Weighted sums and means: what counts, and over which denominator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as Spec

from lossfns import weighted_mean, weighted_sum


def test_mean_is_over_all_tokens_and_not_a_mean_of_means():
    values = jnp.concatenate([jnp.full(10, 4.0), jnp.full(1000, 1.0)])
    np.testing.assert_allclose(weighted_mean(values), (10 * 4 + 1000) / 1010, rtol=1e-6)


def test_weights_scale_values_and_denominator():
    values, weights = jnp.array([1.0, 5.0, 9.0]), jnp.array([2.0, 1.0, 0.0])
    assert float(weighted_sum(values, weights)) == 7.0
    np.testing.assert_allclose(weighted_mean(values, weights), 7 / 3, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_value_of_weight_zero_never_counts(bad):
    values, weights = jnp.array([1.0, bad]), jnp.array([1.0, 0.0])
    assert float(weighted_mean(values, weights)) == 1.0
    np.testing.assert_array_equal(jax.grad(weighted_mean)(values, weights), [1.0, 0.0])


@pytest.mark.parametrize("reduce", [weighted_sum, weighted_mean])
def test_nothing_to_average_is_zero_with_zero_gradient(reduce):
    values = jnp.array([[1.0, jnp.nan]])
    assert float(reduce(values, jnp.zeros((1, 2), bool))) == 0.0
    np.testing.assert_array_equal(jax.grad(reduce)(values, jnp.zeros((1, 2), bool)), [[0.0, 0.0]])
    assert float(reduce(jnp.zeros((0, 3)))) == 0.0


def test_half_precision_is_summed_in_float32():
    # In float16 the sum stops at 2048, where adding 1 is below half a unit.
    values = jnp.ones(5000, jnp.float16)
    total = weighted_sum(values)
    assert total.dtype == jnp.float32
    assert float(total) == 5000.0


def test_boolean_and_integer_values_are_counted():
    assert float(weighted_mean(jnp.array([True, False, True, True]))) == 0.75
    assert float(weighted_sum(jnp.array([3, 4]), jnp.array(2))) == 14.0


def test_weights_of_lower_rank_are_refused_as_ambiguous():
    with pytest.raises(ValueError, match=r"weights \(2,\) for values \(2, 2\)"):
        weighted_mean(jnp.ones((2, 2)), jnp.ones(2))
    with pytest.raises(ValueError, match=r"weights \(3, 1\) for values \(2, 2\)"):
        weighted_mean(jnp.ones((2, 2)), jnp.ones((3, 1)))
    np.testing.assert_allclose(weighted_mean(jnp.array([[1.0, 3.0], [5.0, 7.0]]), jnp.array([[1.0], [3.0]])), 5.0)


def test_over_devices_the_denominator_is_global():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    values = jnp.arange(16.0)
    weights = (values > 10).astype(jnp.float32)
    for check_vma in (True, False):
        mean = jax.shard_map(
            lambda v, w: weighted_mean(v, w, axis_name="data"),
            mesh=mesh,
            in_specs=(Spec("data"), Spec("data")),
            out_specs=Spec(),
            check_vma=check_vma,
        )
        assert float(mean(values, weights)) == 13.0
    stacked = jax.pmap(lambda v, w: weighted_sum(v, w, axis_name="i"), axis_name="i")
    np.testing.assert_array_equal(stacked(values.reshape(8, 2), weights.reshape(8, 2)), np.full(8, 65.0))


@pytest.mark.parametrize("wrong", [-2.0, -1e-30, np.nan])
@pytest.mark.parametrize("reduced", [weighted_mean, weighted_sum])
def test_a_negative_weight_is_nan_in_value_and_gradient(reduced, wrong):
    values, weights = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, wrong, 1.0])
    assert np.isnan(reduced(values, weights))
    assert np.isnan(jax.grad(reduced)(values, weights)).all()
    over_devices = jax.vmap(lambda v, w: reduced(v, w, axis_name="rows"), axis_name="rows")(values, weights)
    assert np.isnan(over_devices).all()
    assert np.isfinite(reduced(values, jnp.abs(jnp.nan_to_num(weights))))


def test_a_scalar_weight_may_be_a_python_number():
    assert weighted_sum(jnp.array([1.0, 2.0]), 2.0) == 6.0
    assert np.isnan(weighted_sum(jnp.array([1.0, 2.0]), -2.0))
