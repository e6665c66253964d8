"""The numerical pieces that losses share."""

import jax
import jax.numpy as jnp
import numpy as np

from lossfns._numerics import log_probabilities

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
