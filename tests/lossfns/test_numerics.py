"""The numerical pieces that losses share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lossfns._numerics import log_add, log_of_sum, log_probabilities, start_of_scan

INF = np.inf


def test_log_probabilities_at_the_ends_of_the_number_line():
    rows = jnp.array([[0.0, 0.0], [1e4, 1e4], [3.0, -INF], [INF, 0.0], [INF, INF], [-INF, -INF]])
    expected = [[-np.log(2)] * 2, [-np.log(2)] * 2, [0, -INF], [0, -INF], [-np.log(2)] * 2, [-INF, -INF]]
    np.testing.assert_allclose(log_probabilities(rows), expected, rtol=1e-6)
    slope = jax.grad(lambda x: jnp.sum(jnp.exp(log_probabilities(x)) * jnp.arange(2.0)[None]))(rows)
    assert np.isfinite(slope).all()
    assert not slope[2:].any()


def test_log_probabilities_are_float32_of_bfloat16():
    assert log_probabilities(jnp.zeros((2, 3), jnp.bfloat16)).dtype == jnp.float32


def test_log_add_and_its_gradient():
    a, b = jnp.array([0.0, 1e4, -INF, -INF, -1e4]), jnp.array([0.0, 1e4 - 1, 2.0, -INF, -1e4])
    expected = [np.log(2), 1e4 + np.log1p(np.exp(-1)), 2, -INF, -1e4 + np.log(2)]
    np.testing.assert_allclose(log_add(a, b), expected, rtol=1e-7)
    np.testing.assert_allclose(log_add(a, b, b)[0], np.log(3), rtol=1e-7)
    of_a, of_b = jax.grad(lambda a, b: jnp.sum(jnp.where(jnp.isfinite(log_add(a, b)), log_add(a, b), 0)), (0, 1))(a, b)
    share = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(of_a, [0.5, share, 0, 0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(of_b, [0.5, 1 - share, 1, 0, 0.5], rtol=1e-6)


def test_log_of_nothing_has_no_gradient():
    values, slopes = jax.vmap(jax.value_and_grad(log_of_sum))(jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(values, [-INF, -np.log(2), 0], rtol=1e-7)
    np.testing.assert_allclose(slopes, [0, 2, 1])


@pytest.mark.parametrize("check_vma", [False, True])
def test_a_scan_may_start_from_a_constant_on_several_devices(check_vma):
    def total(x):
        return jax.lax.scan(lambda carry, row: (carry + row, None), start_of_scan(jnp.zeros(()), x), x)[0][None]

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    across = jax.shard_map(total, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=check_vma)
    np.testing.assert_array_equal(jax.jit(across)(jnp.arange(8.0)), [1, 5, 9, 13])


def test_the_start_of_a_scan_keeps_its_value_beside_nan():
    assert start_of_scan(jnp.float32(3), jnp.array([np.nan])) == 3
