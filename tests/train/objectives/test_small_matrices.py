"""Solvers for matrices of a few rows against exhaustive search and singular values of a factor, in float64."""

import itertools

import jax
import numpy as np
import pytest

from train.objectives.small_matrices import _disjoint_pairs, graded_eigh, nonnegative_minimum

EIGH, MINIMUM = jax.jit(graded_eigh), jax.jit(nonnegative_minimum)


def cosines_of(rng, size):
    rows = rng.normal(size=(size, size + 1))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_each_pair_of_rows_meets_once_a_sweep(size):
    rounds = _disjoint_pairs(size)
    met = sorted(tuple(pair) for pair in rounds.reshape(-1, 2).tolist() if pair[0] != pair[1])
    assert met == list(itertools.combinations(range(size), 2))
    assert all(len({row for pair in turn for row in set(pair)}) == size for turn in rounds.tolist())


@pytest.mark.parametrize("ratio", [1.0, 1e3, 1e6])
def test_eigenvalues_and_vectors_are_exact_at_every_scale(ratio):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        cosines, sizes = cosines_of(rng, 5), rng.permutation(ratio ** np.linspace(0, 1, 5))
        values, vectors = EIGH((sizes[:, None] * cosines * sizes).astype(np.float32))
        u, s, _ = np.linalg.svd(sizes[:, None] * np.linalg.cholesky(cosines))
        order = np.argsort(-np.asarray(values))
        np.testing.assert_allclose(values[order], s**2, rtol=3e-5)
        found = np.asarray(vectors)[:, order]
        np.testing.assert_allclose(found * np.sign(np.sum(found * u, axis=0)), u, rtol=2e-3)


def test_the_minimum_is_found_whatever_is_0_in_it():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = cosines_of(rng, 5), rng.normal(size=5)
        x = np.asarray(MINIMUM(a.astype(np.float32), b.astype(np.float32)), np.float64)
        slope = a @ x - b
        assert x.min() >= 0
        np.testing.assert_allclose(np.minimum(x, slope), 0, atol=2e-5 * (1 + x.max()))


def test_numbers_that_are_not_finite_end_the_search():
    bad = np.full((5, 5), np.nan, np.float32)
    assert np.isnan(MINIMUM(bad, np.ones(5, np.float32))).any()
    assert np.isnan(EIGH(bad)[0]).any()
