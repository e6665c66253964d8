"""NT-Xent: the published sum, blocks, missing pairs and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as Spec

from lossfns import nt_xent, semi_hard_triplet


def published(view_a, view_b, temperature):
    """Equation 1 of Chen et al. 2020, anchor by anchor, with the two anchors of a pair averaged."""
    count = len(view_a)
    z = np.concatenate([view_a, view_b]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    scores = z @ z.T / temperature

    def anchor(i, j):
        return -scores[i, j] + np.log(sum(np.exp(scores[i, k]) for k in range(2 * count) if k != i))

    return np.array([(anchor(i, i + count) + anchor(i + count, i)) / 2 for i in range(count)])


@pytest.fixture(scope="module")
def views():
    return np.random.default_rng(0).normal(size=(2, 16, 5)).astype(np.float32)


def test_every_anchor_has_2n_minus_1_terms():
    # Orthogonal pairs of identical views: exp(1) over exp(1) + 2(N - 1) terms of exp(0).
    for count in (1, 2, 5):
        values = nt_xent(jnp.eye(count), jnp.eye(count), temperature=1.0)
        np.testing.assert_allclose(values, np.full(count, np.log(1 + 2 * (count - 1) / np.e)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("block_size", [None, 1, 3, 32, 100])
def test_equals_the_published_sum(views, block_size):
    values = nt_xent(*views, temperature=0.1, block_size=block_size)
    np.testing.assert_allclose(values, published(*views, 0.1), rtol=1e-5)


@pytest.mark.parametrize("block_size", [1, 7, 32])
def test_blocks_have_the_gradient_of_the_whole(views, block_size):
    weights = jnp.arange(16.0)

    def total(a, b, temperature, block_size):
        return jnp.sum(weights * nt_xent(a, b, temperature=temperature, block_size=block_size))

    with jax.enable_x64(True):
        exact = [jnp.float64(v) for v in views]
        whole = jax.grad(total, argnums=(0, 1, 2))(*exact, jnp.float64(0.2), None)
        blocks = jax.grad(total, argnums=(0, 1, 2))(*exact, jnp.float64(0.2), block_size)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12), blocks, whole)


@pytest.mark.parametrize("block_size", [None, 3])
def test_a_masked_pair_is_deleted_also_as_a_negative(views, block_size):
    where = np.arange(16) % 3 != 0
    a, b = views.copy()
    a[~where], b[~where] = np.nan, np.inf

    def values(a, b):
        return nt_xent(a, b, temperature=0.2, where=jnp.asarray(where), block_size=block_size)

    expected = np.zeros(16)
    expected[where] = published(*views[:, where], 0.2)
    np.testing.assert_allclose(values(a, b), expected, rtol=1e-5)
    masked = jax.grad(lambda a, b: values(a, b).sum(), argnums=(0, 1))(a, b)
    kept = jax.grad(lambda a, b: nt_xent(a, b, temperature=0.2).sum(), argnums=(0, 1))(*views[:, where])
    for whole, part in zip(masked, kept, strict=True):
        np.testing.assert_array_equal(whole[~where], 0)
        np.testing.assert_allclose(whole[where], part, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("block_size", [None, 3])
def test_over_devices_value_and_gradient_are_those_of_one(views, check_vma, block_size):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    where = jnp.asarray(np.arange(16) % 5 != 0)
    weights = jnp.arange(16.0)

    def share(a, b, where, weights):
        values = nt_xent(a, b, temperature=0.2, where=where, axis_name="data", block_size=block_size)
        return jnp.sum(weights * values), values

    def local(*inputs):
        (_, values), gradients = jax.value_and_grad(share, argnums=(0, 1), has_aux=True)(*inputs)
        return values, gradients

    sharded = jax.shard_map(
        local, mesh=mesh, in_specs=Spec("data"), out_specs=(Spec("data"), Spec("data")), check_vma=check_vma
    )
    values, gradients = jax.jit(sharded)(*views, where, weights)
    np.testing.assert_allclose(values, nt_xent(*views, temperature=0.2, where=where), rtol=1e-5)
    whole = jax.grad(lambda a, b: jnp.sum(weights * nt_xent(a, b, temperature=0.2, where=where)), argnums=(0, 1))
    for shared, alone in zip(gradients, whole(*views), strict=True):
        np.testing.assert_allclose(shared, alone, rtol=1e-4, atol=1e-5)


def test_pmap_equals_one_device(views):
    values = jax.pmap(lambda a, b: nt_xent(a, b, axis_name="i"), axis_name="i")(*views.reshape(2, 8, 2, 5))
    np.testing.assert_allclose(values.reshape(16), nt_xent(*views), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_length_of_an_embedding_does_not_matter(views, scale):
    a, b = views
    np.testing.assert_allclose(nt_xent(np.float32(scale) * a, b), nt_xent(a, b), rtol=1e-5)
    scaled = jax.grad(lambda a: nt_xent(a, b).sum())(np.float32(scale) * a)
    np.testing.assert_allclose(
        scaled * np.float32(scale), jax.grad(lambda a: nt_xent(a, b).sum())(a), rtol=1e-4, atol=1e-5
    )


def test_a_zero_row_has_cosine_zero_and_an_ordinary_gradient(views):
    a, b = views.copy()
    a[3] = 0
    z = np.concatenate([a, b]).astype(np.float64)
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    scores = z / np.where(norms == 0, 1, norms)
    scores = scores @ scores.T / 0.5
    others = np.delete(scores, 3, axis=1)
    expected = (np.log(31) + np.log(np.exp(np.delete(scores[19], 19)).sum())) / 2
    assert others.shape == (32, 31)
    np.testing.assert_allclose(nt_xent(a, b)[3], expected, rtol=1e-5)
    gradient = np.linalg.norm(jax.grad(lambda a: nt_xent(a, b).sum())(a), axis=1)
    assert np.isfinite(gradient).all()
    assert 0 < gradient[3] < 10 * np.median(gradient)


def test_cosines_of_one_at_a_small_temperature():
    # All embeddings equal: 2N - 1 equal terms, so log(2N - 1), whatever the temperature (100 times a rounding of 1).
    ones = jnp.ones((4, 3))
    np.testing.assert_allclose(nt_xent(ones, ones, temperature=0.01), np.full(4, np.log(7)), rtol=5e-6)
    np.testing.assert_allclose(nt_xent(ones, -ones, temperature=0.01), np.full(4, 200 + np.log(3)), rtol=1e-6)


def test_an_empty_batch_gives_an_empty_result():
    assert nt_xent(jnp.zeros((0, 3)), jnp.zeros((0, 3))).shape == (0,)


def test_errors_name_both_sides():
    with pytest.raises(ValueError, match=r"view_b must have the shape \(4, 3\) of view_a, got \(5, 3\)"):
        nt_xent(jnp.zeros((4, 3)), jnp.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"view_a must have rank 2, \[pairs, features\], got rank 1 \(shape \(3,\)\)"):
        nt_xent(jnp.zeros(3), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"where must have the shape \(4,\) of the result, got \(8,\)"):
        nt_xent(jnp.zeros((4, 3)), jnp.zeros((4, 3)), where=jnp.ones(8, bool))
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        nt_xent(jnp.zeros((4, 3)), jnp.zeros((4, 3)), temperature=0)
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        nt_xent(jnp.zeros((4, 3)), jnp.zeros((4, 3)), block_size=0)


@pytest.mark.parametrize("norm", ["l2", "squared_l2", "l1"])
@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_semi_hard_triplets_far_apart_or_close_together_stay_finite(norm, scale):
    """The fuzz tests stop at 100: beyond, rounding decides which negative is the next farther one."""
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    labels, two = jnp.array([0, 0, 1, 1, 2, 9]), rows.copy()
    two[0, 0] = two[3, 3] = scale
    for x in (two, rows * np.float32(scale)):  # squares of up to 1e30, which float32 holds

        def total(x):
            values = semi_hard_triplet(x, labels, norm=norm)
            return jnp.sum(values), values

        slopes, values = jax.grad(total, has_aux=True)(jnp.asarray(x))
        assert np.isfinite(slopes).all()
        assert (np.asarray(values) >= 0).all()
        assert np.isfinite(values).all()
