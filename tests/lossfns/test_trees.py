"""Losses on trees: counts of trees that are known, and sentences of ordinary length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossfns import arc_cross_entropy, dependency_tree_crf, span_tree_crf, tree_smoothness


@pytest.mark.parametrize("single_root", [True, False])
def test_cayley_counts_the_dependency_trees(single_root):
    # Scores of 0: n^(n-1) trees with one root, (n+1)^(n-1) forests under the root.
    n = 20
    heads = jnp.arange(n)
    value = dependency_tree_crf(jnp.zeros((n, n + 1)), heads, single_root=single_root)
    np.testing.assert_allclose(value, (n - 1) * np.log(n if single_root else n + 1), rtol=1e-5)


def test_dependency_trees_agree_with_the_determinant():
    n = 12
    x = np.random.default_rng(0).normal(size=(n, n + 1)) * 2
    w = np.exp(x[:, 1:]).T * (1 - np.eye(n))
    laplacian = np.diag(w.sum(0)) - w
    several = np.linalg.slogdet(laplacian + np.diag(np.exp(x[:, 0])))[1]
    laplacian[0] = np.exp(x[:, 0])
    one = np.linalg.slogdet(laplacian)[1]
    heads = np.arange(n)
    score = x[heads, heads].sum()
    for single_root, log_z in ((True, one), (False, several)):
        value = dependency_tree_crf(jnp.float32(x), jnp.asarray(heads), single_root=single_root)
        np.testing.assert_allclose(value, log_z - score, rtol=1e-5)


def test_catalan_counts_the_binary_trees():
    n = 16
    spans = jnp.zeros((n, n), bool).at[0, :].set(True)
    value, slope = jax.value_and_grad(span_tree_crf)(jnp.zeros((n, n)), spans)
    catalan = [1.0]
    for k in range(n - 1):
        catalan.append(catalan[-1] * 2 * (2 * k + 1) / (k + 2))
    np.testing.assert_allclose(value, np.log(catalan[-1]), rtol=1e-5)
    assert np.isfinite(slope).all()


def test_an_edge_to_no_node_is_nan_for_its_tree_alone():
    hidden, weights = jnp.ones((2, 3, 1)), jnp.ones((2, 2))
    edges = jnp.array([[[0, 1], [1, 3]], [[0, 1], [1, 2]]])
    assert np.isnan(tree_smoothness(hidden, edges, weights)).tolist() == [True, False]
    counts = jnp.array([1, 2])
    np.testing.assert_allclose(tree_smoothness(hidden, edges, weights, counts), [0, 0])


@pytest.mark.parametrize("length", [-100, -1, 3])
def test_a_length_that_does_not_exist_is_nan_at_every_word(length):
    values = arc_cross_entropy(jnp.zeros((2, 2, 3)), jnp.zeros((2, 2), int), jnp.array([length, 2]))
    assert np.isnan(values[0]).all()
    assert np.isfinite(values[1]).all()
