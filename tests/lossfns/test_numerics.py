"""The numerical pieces that losses share."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lossfns._numerics import (
    divided,
    excess,
    log_add,
    log_of_sum,
    log_probabilities,
    multiplied,
    relative_entropy,
    vary_like,
)

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
        return jax.lax.scan(lambda carry, row: (carry + row, None), vary_like(jnp.zeros(()), x), x)[0][None]

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    across = jax.shard_map(total, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=check_vma)
    np.testing.assert_array_equal(jax.jit(across)(jnp.arange(8.0)), [1, 5, 9, 13])


def test_the_start_of_a_scan_keeps_its_value_beside_nan():
    assert vary_like(jnp.float32(3), jnp.array([np.nan])) == 3


def test_an_excess_keeps_its_digits_near_zero_and_is_never_negative():
    gaps = np.float32([-20, -1.5, -1, -0.9, -1e-4, 0, 1e-6, 0.3, 0.99, 1, 50])
    exact = np.longdouble(gaps)
    with np.errstate(invalid="ignore"):
        series = sum((-exact) ** j / np.longdouble(math.factorial(j)) for j in range(2, 40))
    expected = np.where(np.abs(exact) < 2, series, exact + np.expm1(-exact))
    np.testing.assert_allclose(excess(jnp.asarray(gaps)), expected.astype(float), rtol=1e-6)
    slopes = jax.vmap(jax.grad(excess))(jnp.asarray(gaps))
    np.testing.assert_allclose(slopes, -np.expm1(-np.float64(gaps)), rtol=1e-6)


def test_relative_entropy_with_masses_that_one_side_lacks_or_that_underflow():
    log_t = jnp.array([0.0, -INF, 0.0, -INF, -200.0, 0.0, -200.0])
    log_p = jnp.array([0.0, -1.0, -INF, -INF, 0.0, -200.0, -INF])
    with np.errstate(invalid="ignore"):
        values = relative_entropy(log_t, log_p, log_t - log_p)
    np.testing.assert_allclose(values, [0, np.exp(-1), INF, 0, 1, 199, 0], rtol=1e-6)
    both = jnp.array([0, 4, 5])
    slopes = jax.grad(lambda t, p: relative_entropy(t, p, t - p).sum(), (0, 1))(log_t[both], log_p[both])
    np.testing.assert_allclose(slopes[0], [0, 0, 200], atol=1e-6)  # t log(t / p)
    np.testing.assert_allclose(slopes[1], [0, 1, -1], atol=1e-6)  # p - t


def test_an_infinite_score_has_no_gradient_by_its_factor():
    x = jnp.array([-INF, 2.0, INF])
    for function, of_factor in ((divided, -0.5), (multiplied, 2.0)):
        value, slope = jax.jvp(lambda by, function=function: function(x, by), (2.0,), (1.0,))
        np.testing.assert_array_equal(value[jnp.array([0, 2])], [-INF, INF])
        np.testing.assert_array_equal(slope, [0, of_factor, 0])
        assert np.isnan(function(x, jnp.nan)).all()
