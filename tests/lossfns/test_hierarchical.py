"""Levels: examples that lack one, positions without a span."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossfns import hierarchical_cross_entropy, pool_spans, weighted_mean


def test_an_example_may_lack_a_level():
    logits = {"char": jnp.zeros((2, 3, 4)), "sentence": jnp.full((2, 1, 2), jnp.nan).at[0].set(0)}
    labels = {"char": jnp.zeros((2, 3), int), "sentence": jnp.array([[1], [-100]])}
    where = {"sentence": jnp.array([[True], [False]])}
    values = hierarchical_cross_entropy(logits, labels, where=where)
    np.testing.assert_allclose(values["sentence"], [[np.log(2)], [0]], rtol=1e-6)
    np.testing.assert_allclose(weighted_mean(values["sentence"], where["sentence"]), np.log(2), rtol=1e-6)


def test_positions_without_a_span_or_masked_are_in_none():
    hidden = jnp.array([[1.0, 1.0], [jnp.nan, 0.0], [3.0, 5.0], [jnp.inf, 0.0]])
    where = jnp.array([True, True, True, False])
    ids = jnp.array([0, -1, 0, 1])
    out = pool_spans(hidden, ids, num_spans=2, where=where)
    np.testing.assert_allclose(out.vectors, [[2, 3], [0, 0]])
    assert out.where.tolist() == [True, False]
    slope = jax.grad(lambda h: pool_spans(h, ids, num_spans=2, where=where).vectors.sum())(hidden)
    np.testing.assert_allclose(slope, [[0.5, 0.5], [0, 0], [0.5, 0.5], [0, 0]])
    assert not pool_spans(hidden, ids, where=jnp.zeros(4, bool)).where.any()


def test_pool_spans_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"where must have the shape \(4,\).*got \(3,\)"):
        pool_spans(jnp.zeros((4, 2)), jnp.zeros(4, int), where=jnp.ones(3, bool))
    with pytest.raises(TypeError, match="span_ids must have an integer dtype, got float32"):
        pool_spans(jnp.zeros((4, 2)), jnp.zeros(4))
    with pytest.raises(ValueError, match="num_spans must be at least 1, got 0"):
        pool_spans(jnp.zeros((4, 2)), jnp.zeros(4, int), num_spans=0)
