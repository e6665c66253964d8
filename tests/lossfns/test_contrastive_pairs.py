"""Losses over all pairs: published numbers, learnt scales, rings of devices, queues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as Spec

from lossfns import clip, enqueue, info_nce, moco, nt_xent, siglip, supcon


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(16, 5)).astype(np.float32)
    return a, a + rng.normal(size=(16, 5)).astype(np.float32)


def cosines(a, b):
    unit = [np.float64(x) / np.linalg.norm(np.float64(x), axis=1, keepdims=True) for x in (a, b)]
    return unit[0] @ unit[1].T


def test_siglip_starts_at_ten_and_without_its_bias_at_734():
    a, b = jax.random.normal(jax.random.key(0), (2, 1024, 512))
    np.testing.assert_allclose(siglip(a, b).mean(), 10.05, atol=0.01)
    np.testing.assert_allclose(siglip(a, b, bias=0.0).mean(), 734, atol=0.5)


@pytest.mark.parametrize("weights", [np.ones(16, np.float32), np.arange(16, dtype=np.float32)])
def test_learnt_scale_bias_and_weights_have_their_gradients(pairs, weights):
    score = cosines(*pairs)
    sign = np.where(np.eye(16, dtype=bool), 1, -1)

    def total(scale, bias, weights):
        return jnp.sum(weights * siglip(*pairs, scale=scale, bias=bias))

    slopes = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(3.0, -1.0, weights)
    d_scores = -sign / (1 + np.exp(sign * (3 * score - 1))) * weights[:, None]
    values = np.log1p(np.exp(-sign * (3 * score - 1))).sum(1)
    np.testing.assert_allclose(slopes[0], (d_scores * score).sum(), rtol=1e-4)
    np.testing.assert_allclose(slopes[1], d_scores.sum(), rtol=1e-4)
    np.testing.assert_allclose(slopes[2], values, rtol=1e-5)


def test_gradients_made_ahead_are_differentiated_like_any_other(pairs):
    # With equal weights the gradient is made in the forward pass; how it depends on each weight must not be lost.
    a, b = (jnp.asarray(x) for x in pairs)

    def slope_along_b(weights):
        return jnp.sum(jax.grad(lambda a: jnp.sum(weights * siglip(a, b)))(a) * b)

    def slope_of_one(i):
        return jnp.sum(jax.grad(lambda a: siglip(a, b)[i])(a) * b)

    one_by_one = [float(jax.jit(slope_of_one)(i)) for i in range(16)]
    np.testing.assert_allclose(jax.jit(jax.grad(slope_along_b))(jnp.ones(16)), one_by_one, rtol=1e-4)


def test_a_scale_far_above_the_bound_is_the_bound():
    a, b = (jnp.asarray(np.random.default_rng(i).normal(size=(4, 3)), jnp.float32) for i in (0, 1))
    np.testing.assert_array_equal(clip(a, b, scale=1e9), clip(a, b, scale=100.0))


def test_a_scale_at_its_bound_can_come_back(pairs):
    a, b = pairs
    score = 100 * cosines(a, b)
    by_row, by_column = (np.exp(score - score.max(i, keepdims=True)) for i in (1, 0))
    by_row, by_column = by_row / by_row.sum(1, keepdims=True), by_column / by_column.sum(0, keepdims=True)
    expected = ((by_row + by_column) / 2 * score / 100).sum() - np.trace(score) / 100
    for scale in (100.0, 250.0):
        slope = jax.grad(lambda scale: clip(a, b, scale=scale).sum())(scale)
        np.testing.assert_allclose(slope, expected, rtol=1e-4)
    np.testing.assert_allclose(clip(a, b, scale=250.0), clip(a, b, scale=100.0), rtol=1e-6)
    assert float(clip(a, b, scale=250.0, max_scale=250.0).sum()) > 1.5 * float(clip(a, b, scale=250.0).sum())


def test_scores_far_apart_underflow_nowhere():
    # At scale 100 the first image is 200 below its row's best everywhere, yet its own column's best is itself.
    a = jnp.array([[1.0, 0.0], [-1.0, 1e-3]])
    b = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
    values, slopes = jax.jit(jax.value_and_grad(lambda a: clip(a, b, scale=100.0).sum()))(a)
    score = 100 * cosines(a, b)
    rows, columns = (np.logaddexp.reduce(score, axis=i) for i in (1, 0))
    np.testing.assert_allclose(values, ((rows + columns) / 2 - np.diagonal(score)).sum(), rtol=1e-6)
    assert np.isfinite(slopes).all()


def unit(x):
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def plain_clip(a, b, scale):
    score = scale * unit(a) @ unit(b).T
    return ((jax.nn.logsumexp(score, 0) + jax.nn.logsumexp(score, 1)) / 2 - jnp.diagonal(score)).sum()


def plain_info_nce(a, b, scale):
    score = scale * a @ b.T
    return (jax.nn.logsumexp(score, 1) - jnp.diagonal(score)).sum()


def plain_nt_xent(a, b, scale):
    both = unit(jnp.concatenate([a, b]))
    score = scale * both @ both.T
    others = jnp.where(jnp.eye(32, dtype=bool), -jnp.inf, score)
    return (jax.nn.logsumexp(others, 1) - jnp.diagonal(jnp.roll(score, 16, axis=1))).sum() / 2


@pytest.mark.parametrize(
    ("loss", "plain"),
    [
        (lambda a, b, scale: clip(a, b, scale=scale, max_scale=1e9), plain_clip),
        (lambda a, b, scale: info_nce(a, b, temperature=1 / scale), plain_info_nce),
        (lambda a, b, scale: nt_xent(a, b, temperature=1 / scale), plain_nt_xent),
    ],
    ids=["clip", "info_nce", "nt_xent"],
)
def test_scales_on_both_sides_of_where_exponentials_need_a_shift(pairs, loss, plain):
    run = jax.jit(jax.value_and_grad(lambda *given: loss(*given).sum(), argnums=(0, 1, 2)))
    longest = [np.linalg.norm(x, axis=1).max() for x in pairs]
    # Unit vectors change sides at 44.36, others where their largest norms' product times the scale does.
    for scale in (5.0, 44.36, 44.37, 44.36 / np.prod(longest), 44.37 / np.prod(longest), 300.0):
        given = [jnp.asarray(x, jnp.float32) for x in (*pairs, scale)]
        actual = run(*given)
        with jax.enable_x64(True):
            exact = jax.value_and_grad(plain, argnums=(0, 1, 2))(*(jnp.asarray(x, float) for x in given))
        for x, e in zip(jax.tree.leaves(actual), jax.tree.leaves(exact), strict=True):
            np.testing.assert_allclose(x, e, rtol=1e-4, atol=1e-4 * np.abs(e).max())


@pytest.mark.parametrize(("scale", "ring"), [(20.0, False), (20.0, True), (100.0, False), (100.0, True)])
def test_many_rows_go_in_parts_that_overlap(scale, ring):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2051, 8)).astype(np.float32)
    b = a + rng.normal(size=(2051, 8)).astype(np.float32)
    keep = np.arange(2051) % 5 != 0

    def total(a, b):
        return clip(a, b, scale=scale, where=keep).sum() / 2051

    actual = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(a, b)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

    def local(a, b):  # both devices have the same pairs: twice as many negatives, each twice
        return jax.grad(lambda a: clip(a, b, scale=scale, axis_name="data", ring=ring).sum() / 2051)(a)

    run = jax.shard_map(local, mesh=mesh, in_specs=(Spec("data"),) * 2, out_specs=Spec("data"))
    twice = jax.jit(run)(*(np.concatenate([x, x]) for x in (a, b)))
    with jax.enable_x64(True):
        a, b = (jnp.asarray(x, float) for x in (a, b))
        value, slopes = jax.value_and_grad(plain_clip, argnums=(0, 1))(a[keep], b[keep], scale)
        slopes = [np.asarray(x) for x in slopes]
        # Each pair is there twice, on both devices, and with it log 2 in each log-sum.
        expected = np.asarray(jax.grad(plain_clip)(a, b, scale)) * 2 / 2051
    np.testing.assert_allclose(actual[0], float(value) / 2051, rtol=1e-5)
    for slope, exact in zip(actual[1], slopes, strict=True):
        np.testing.assert_allclose(slope[keep], exact / 2051, rtol=1e-3, atol=1e-5 * np.abs(exact).max() / 2051)
        assert not np.any(slope[~keep])
    np.testing.assert_allclose(twice[:2051] + twice[2051:], expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_a_loss_near_zero_keeps_its_digits():
    # log(1 + e^-20): as a difference of log-sums it would be 0 in float32.
    np.testing.assert_allclose(info_nce(20 * jnp.eye(2), jnp.eye(2)), np.full(2, np.exp(-20)), rtol=1e-5)


@pytest.mark.parametrize(("loss", "scale"), [(clip, 5.0), (clip, 60.0), (siglip, 5.0)])
@pytest.mark.parametrize("check_vma", [True, False])
def test_a_ring_of_devices_has_the_value_and_gradient_of_one(pairs, loss, scale, check_vma):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    where, weights = jnp.asarray(np.arange(16) % 5 != 0), jnp.arange(16.0)
    options = {"where": where} if loss is clip else {"where": where, "bias": -2.0}

    def total(a, b, scale, where, weights, **given):
        return jnp.sum(weights * loss(a, b, scale=scale, **{**options, **given, "where": where}))

    def local(a, b, scale, where, weights):
        scale = jax.lax.pcast(scale, "data", to="varying") if check_vma else scale
        slopes = jax.grad(total, argnums=(0, 1, 2))(
            a, b, scale, where, weights, axis_name="data", ring=True, block_size=1
        )
        return *slopes[:2], slopes[2][None]

    specs = (Spec("data"), Spec("data"), Spec(), Spec("data"), Spec("data"))
    run = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=Spec("data"), check_vma=check_vma)
    *slopes, by_scale = jax.jit(run)(*pairs, jnp.float32(scale), where, weights)
    expected = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*pairs, jnp.float32(scale), where, weights)
    for slope, whole in zip((*slopes, by_scale.sum()), expected, strict=True):
        np.testing.assert_allclose(slope, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [clip, siglip])
def test_no_device_of_a_ring_holds_all_embeddings_or_all_pairs(loss):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    count, size = 1024, 256
    spec = jax.ShapeDtypeStruct((count, size), jnp.float32)

    def bytes_of(**options):
        def local(a, b):
            return jax.grad(lambda a, b: loss(a, b, axis_name="data", **options).sum(), argnums=(0, 1))(a, b)

        run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=Spec("data"), out_specs=Spec("data")))
        return run.lower(spec, spec).compile().memory_analysis().temp_size_in_bytes

    ring, gathered, everything = bytes_of(ring=True, block_size=32), bytes_of(block_size=32), 4 * count * size
    assert ring < 1.25 * everything < gathered, f"ring {ring}, gathered {gathered}, all embeddings {everything}"


def test_sup_con_forms_and_anchors_alone(pairs):
    embeddings, _ = pairs
    labels = jnp.arange(16) // 3
    out, inside = (supcon(embeddings, labels, form=form) for form in ("out", "in"))
    assert (np.asarray(out) >= np.asarray(inside) - 1e-5).all()
    assert float(out[15]) == float(inside[15]) == 0.0  # alone in its class
    slope = jax.jit(jax.grad(lambda x: supcon(x, labels)[15]))(embeddings)
    np.testing.assert_array_equal(slope, 0)


def test_a_queue_that_is_the_rest_of_the_batch_is_info_nce(pairs):
    queries, keys = pairs
    expected = info_nce(queries, keys, similarity="cosine", temperature=0.2)
    for i in (0, 7):
        value = moco(queries[i : i + 1], keys[i : i + 1], np.delete(keys, i, axis=0), temperature=0.2)
        np.testing.assert_allclose(value[0], expected[i], rtol=1e-5)


def test_a_queue_place_without_a_key_is_not_there(pairs):
    queries, keys = pairs
    queue, filled = jnp.asarray(keys).at[4:].set(jnp.nan), jnp.arange(16) < 4

    def total(q, queue, **options):
        return moco(q, keys, queue, **options).sum()

    run = jax.jit(jax.value_and_grad(total))
    actual, expected = run(queries, queue, queue_where=filled), run(queries, keys[:4])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), actual, expected)
    alone = moco(queries, keys, keys[:0])
    np.testing.assert_array_equal(alone, 0)


def test_keys_of_all_devices_enter_every_queue_alike(pairs):
    keys, _ = pairs
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    where, queue = jnp.asarray(np.arange(16) % 3 != 0), jnp.zeros((13, 5))

    def local(keys, where):
        queue_and_pointer = enqueue(keys, queue, jnp.int32(9), where=where, axis_name="data")
        return jax.tree.map(lambda x: x[None], queue_and_pointer)

    run = jax.shard_map(local, mesh=mesh, in_specs=Spec("data"), out_specs=Spec("data"), check_vma=False)
    with pytest.raises(ValueError, match=r"a place for each of the 16 keys of a batch, got \(13, 5\)"):
        jax.jit(run)(keys, where)
    queue = jnp.zeros((17, 5))
    queues, pointers = jax.jit(run)(keys, where)
    kept = keys[np.asarray(where)]
    expected = enqueue(kept, queue, jnp.int32(9))
    for one, pointer in zip(queues, pointers, strict=True):
        np.testing.assert_allclose(one, expected.queue, rtol=1e-6)
        assert int(pointer) == int(expected.pointer) == (9 + len(kept)) % 17


@pytest.mark.parametrize("block_size", [None, 3, 5])
def test_blocks_that_do_not_divide_the_batch(pairs, block_size):
    labels = np.arange(16) % 5
    for loss, given in (
        (nt_xent, pairs),
        (clip, pairs),
        (siglip, pairs),
        (info_nce, pairs),
        (supcon, (pairs[0], labels)),
    ):
        values = loss(*given, block_size=block_size)
        np.testing.assert_allclose(values, loss(*given, block_size=16), rtol=2e-5, atol=1e-5, err_msg=loss.__name__)
