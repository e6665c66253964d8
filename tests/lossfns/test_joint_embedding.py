"""Losses between views: the authors' conventions by number, global statistics, and no copies of large heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as Spec

from lossfns import (
    barlow_twins,
    dino,
    dino_center,
    ibot,
    koleo,
    linear_dino,
    msn,
    sigreg,
    sinkhorn,
    soft_cross_entropy,
    swav,
    vicreg,
)
from tests.oracles.joint_embedding import dino as dino_oracles
from tests.oracles.joint_embedding import spreading as spreading_oracles


@pytest.fixture(scope="module")
def views():
    return np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)


def test_barlow_twins_variance_is_biased():
    # Deviations +-1 of one feature: with the biased variance the correlation is 1 and costs nothing; with the unbiased
    # one of the paper's listing it would be 1/2, and cost 1/4.
    view = jnp.array([[1.0], [-1.0]])
    np.testing.assert_allclose(barlow_twins(view, view, eps=0.0), np.zeros(2), atol=1e-6)


def test_barlow_twins_weighs_the_off_diagonal_and_adds_epsilon_in_the_root():
    # Variances 1, epsilon 1: correlations of 1/2, so (1/2)^2 twice on the diagonal and lambda (1/2)^2 twice off it.
    views = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
    value = barlow_twins(views, views, eps=1.0, redundancy_weight=0.1)
    np.testing.assert_allclose(value, np.full(2, 0.5 + 0.1 * 0.5), rtol=1e-6)


def test_vicreg_halves_the_mean_hinge_and_puts_epsilon_in_the_root():
    # Unbiased variance 2 x 0.3^2 = 0.18; with epsilon 0.07 the root is 0.5, and the hinge 0.5 in one of two features.
    # The other is constant: its root is the root of 0.07.
    view = jnp.array([[0.3, 0.0], [-0.3, 0.0]])
    value = vicreg(view, view, eps=0.07, variance_weight=1.0, covariance_weight=0.0)
    hinges = (0.5 + 1 - np.sqrt(0.07)) / 2
    np.testing.assert_allclose(value, np.full(2, 2 * hinges / 2), rtol=1e-5)


def test_vicreg_covariance_is_over_n_minus_one_and_features():
    # Covariance of +-1 and +-1 of two rows: 2 off the diagonal, twice, squared, over two features: 4 a view.
    view = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
    np.testing.assert_allclose(vicreg(view, 0 * view, invariance_weight=0.0, variance_weight=0.0), [4, 4], rtol=1e-6)


def test_the_papers_vicreg_by_its_weights(views):
    a, b = views.astype(np.float64)
    expected = 0.0
    for view in (a, b):
        expected += 25 * np.maximum(0, 1 - np.sqrt(view.var(0, ddof=1) + 1e-4)).mean()
        covariance = np.cov(view.T)
        expected += (covariance**2).sum() / 3 - (np.diag(covariance) ** 2).sum() / 3
    expected += 25 * ((a - b) ** 2).sum(-1).mean()
    value = vicreg(*views, invariance_weight=25 * 3, variance_weight=50).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_the_centre_is_used_first_and_then_moved():
    # Centre 2 lifts the second output by as much as the teacher does the first, so the target is even.
    teacher, center = jnp.array([[2.0, 0.0]]), jnp.array([2.0, 0.0])
    value = dino(jnp.log(jnp.array([[3.0, 1.0]])), teacher, center=center, student_temperature=1.0)
    np.testing.assert_allclose(value, [(np.log(4 / 3) + np.log(4)) / 2], rtol=1e-6)
    np.testing.assert_allclose(dino_center(center, jnp.array([[0.0, 1.0]]), momentum=0.9), [1.8, 0.1], rtol=1e-6)


@pytest.mark.parametrize("check_vma", [True, False])
def test_the_centre_is_that_of_all_devices_however_uneven(check_vma):
    rng = np.random.default_rng(0)
    logits, where = rng.normal(size=(16, 2, 5)).astype(np.float32), rng.random((16, 2)) < 0.5
    where[:4] = False
    center = rng.normal(size=5).astype(np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    update = jax.shard_map(
        lambda c, x, m: dino_center(c, x, where=m, axis_name="data"),
        mesh=mesh,
        in_specs=(Spec(), Spec("data"), Spec("data")),
        out_specs=Spec(),
        check_vma=check_vma,
    )
    expected = 0.9 * center + 0.1 * logits[where].mean(0)
    np.testing.assert_allclose(
        jax.jit(update)(center, np.where(where[..., None], logits, np.nan), where), expected, rtol=1e-5
    )
    np.testing.assert_allclose(dino_center(center, logits, where=where), expected, rtol=1e-5)
    np.testing.assert_array_equal(dino_center(center, logits, where=np.zeros((16, 2), bool)), center)


def test_the_papers_dino_over_all_pairs_of_views():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(4, 6, 5)).astype(np.float32), rng.normal(size=(2, 6, 5)).astype(np.float32)
    other = jnp.arange(4)[None, :] != jnp.arange(2)[:, None]
    pairs = jax.vmap(lambda t: jax.vmap(lambda s: dino(s, t))(student))(teacher)
    value = jnp.sum(pairs.mean(-1) * other) / other.sum()
    expected = [dino_oracles.dino(student[v], teacher[q]).mean() for q in range(2) for v in range(4) if v != q]
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)


def test_ibot_counts_images_alike_and_an_unmasked_one_as_zero():
    even = jnp.zeros((3, 4, 2))
    masked = jnp.array([[True, False, False, False], [True, True, True, True], [False] * 4])
    np.testing.assert_allclose(ibot(even, even, masked), [np.log(2), np.log(2), 0], rtol=1e-6)


def test_a_large_head_is_never_copied():
    # 64 x 65,536 logits are 16 MiB; the gradient is one such array, and all temporaries are a small part of one.
    shape = jax.ShapeDtypeStruct((64, 65536), jnp.float32)
    center = jax.ShapeDtypeStruct((65536,), jnp.float32)

    where = jax.ShapeDtypeStruct((64,), bool)

    def total(s, t, c, where):
        return dino(s, t, center=c, where=where, block_size=1).sum()

    for program in (total, jax.value_and_grad(total)):
        memory = jax.jit(program).lower(shape, shape, center, where).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 2 * 2**20


def test_a_large_head_needs_no_logits_at_all():
    # 256 x 65,536 logits of teacher and student would be 64 MiB each; features and prototypes of size 64 are 16 MiB.
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((256, 64), (65536, 64), (256, 64), (65536, 64))]
    program = jax.jit(jax.value_and_grad(lambda *x: linear_dino(*x).sum(), (0, 1)))
    assert program.lower(*shapes).compile().memory_analysis().temp_size_in_bytes < 64 * 2**20


def test_codes_are_constants_in_the_gradient_of_swav():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-0.3, 0.3, size=(2, 6, 5)).astype(np.float32)
    codes = sinkhorn(a), sinkhorn(b)

    def fixed(a, b):
        return jnp.sum(soft_cross_entropy(a / 0.1, codes[1]) + soft_cross_entropy(b / 0.1, codes[0])) / 2

    expected = jax.grad(fixed, (0, 1))(a, b)
    for actual, wanted in zip(jax.grad(lambda a, b: swav(a, b).sum(), (0, 1))(a, b), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)


def test_a_round_of_sinkhorn_by_hand():
    # One round on [[4, 1], [1, 1]]: columns 5 and 2, so rows [4/5, 1/2] and [1/5, 1/2], which sum to 13/10 and 7/10.
    scores = jnp.log(jnp.array([[4.0, 1.0], [1.0, 1.0]]))
    codes = [[8 / 13, 5 / 13], [2 / 7, 5 / 7]]
    np.testing.assert_allclose(sinkhorn(scores, epsilon=1.0, iterations=1), codes, rtol=1e-5)


def test_msn_sends_its_softmax_through_sinkhorn():
    # Probabilities [4/5, 1/5] and [1/2, 1/2]: columns 13/10 and 7/10, so rows [8/13, 2/7] and [5/13, 5/7].
    scores = jnp.log(jnp.array([[4.0, 1.0], [1.0, 1.0]]))
    codes = np.array([[8 / 13, 2 / 7], [5 / 13, 5 / 7]])
    expected = soft_cross_entropy(scores, codes / codes.sum(1, keepdims=True))
    values = msn(scores, scores, temperature=1.0, target_temperature=1.0, entropy_weight=0.0, sinkhorn_iterations=1)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_msn_rewards_the_use_of_all_prototypes():
    # Rows that are sure of different prototypes: nothing to predict, and the mean is even.
    sure = 9 * jnp.eye(4)
    np.testing.assert_allclose(msn(sure, sure), np.zeros(4), atol=1e-5)
    np.testing.assert_allclose(msn(sure[:1], sure[:1], entropy_weight=2.0), [2 * np.log(4)], rtol=1e-5)


def test_koleo_pulls_at_both_rows_and_lets_equal_ones_be():
    x = jnp.array([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.0]])
    slopes = jax.grad(lambda x: koleo(x).sum())(x)
    assert slopes[0, 1] < 0 < slopes[1, 1]  # descent moves them apart
    value, slope = jax.value_and_grad(lambda x: koleo(x).sum())(jnp.ones((3, 2)))
    np.testing.assert_allclose(value, -3 * np.log(1e-8), rtol=1e-5)
    np.testing.assert_array_equal(slope, np.zeros((3, 2)))


def test_koleo_finds_the_nearest_of_rows_that_dot_products_cannot_tell_apart():
    angles = np.array([0.0, 1e-5, 1e-4, 1.2e-4])
    x = np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)
    np.testing.assert_allclose(koleo(x, eps=0.0), -np.log([1e-5, 1e-5, 2e-5, 2e-5]), rtol=1e-3)


@pytest.mark.parametrize("name", ["zeros", "equal rows", "one row", "a zero row", "spread of 30"])
def test_sigreg_of_unusual_batches(name):
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    batch = {"zeros": 0 * x, "equal rows": x[[0] * 6], "one row": x[:1], "spread of 30": 10 * x}
    batch["a zero row"] = np.concatenate([0 * x[:1], x[1:]])
    directions = np.eye(3, dtype=np.float32)
    values, slopes = jax.value_and_grad(lambda x: sigreg(x, directions).sum())(batch[name])
    np.testing.assert_allclose(values, spreading_oracles.sigreg(np.float64(batch[name]), directions).sum(), rtol=1e-4)
    assert np.isfinite(slopes).all()
    assert sigreg(x[:0], directions).shape == (0,)


def test_sigreg_is_small_for_a_gaussian_and_half_a_line_doubled():
    rng = np.random.default_rng(0)
    x, directions = rng.normal(size=(2000, 4)).astype(np.float32), rng.normal(size=(4, 8)).astype(np.float32)
    # The statistic has a limit distribution under the Gaussian, and grows with N elsewhere.
    assert sigreg(x, directions)[0] < 5 < 50 < sigreg(x + 0.5, directions)[0]
    t = np.linspace(-5, 5, 17)
    projected = x.astype(np.float64) @ (directions / np.linalg.norm(directions, axis=0))
    errors = np.abs(np.exp(1j * projected[..., None] * t).mean(0) - np.exp(-t * t / 2)) ** 2 * np.exp(-t * t / 2)
    published = 2000 * np.trapezoid(errors, t, axis=-1).mean()
    np.testing.assert_allclose(sigreg(x, directions, knots=9, largest_frequency=5.0)[0], published, rtol=1e-3)
