"""Penalties that look into a function, and mixtures of examples: what a row of the loss table cannot say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lossfns import cutmix, fisher_diagonal, gradient_penalty, mixup, vat
from tests.oracles.regularizers import functions
from tests.oracles.regularizers._shared import probabilities

RNG = np.random.default_rng(0)
INPUTS, DIRECTIONS = (RNG.normal(size=(6, 4)).astype(np.float32) for _ in range(2))
WIDE, OUT = np.float32(functions.WIDE), np.float32(functions.OUT)


def network(weights, x):
    return jnp.tanh(x @ weights) @ OUT


def test_vat_trains_the_parameters_with_target_and_adversary_held():
    def total(weights):
        return vat(lambda x: network(weights, x), jnp.asarray(INPUTS), jnp.asarray(DIRECTIONS)).sum()

    slope = jax.jit(jax.grad(total))(WIDE)
    moved = []
    for x, d in zip(np.float64(INPUTS), np.float64(DIRECTIONS), strict=True):
        p, j = np.array(probabilities(functions.network(x))), functions.network_slope(x)
        d = j @ (np.diag(p) - np.outer(p, p)) @ j.T @ d
        moved.append(x + d / np.linalg.norm(d))
    targets = jax.nn.softmax(network(WIDE, INPUTS))

    def held(weights):
        return -(targets * jax.nn.log_softmax(network(weights, np.float32(moved)))).sum()

    np.testing.assert_allclose(slope, jax.grad(held)(WIDE), rtol=1e-3, atol=1e-5)


def test_vat_finds_the_direction_that_matters():
    # The second feature moves the logits a hundred times as much: after a few steps the adversary points along it.
    def predict(x):
        return jnp.stack([0.01 * x[:, 0] + x[:, 1], 0 * x[:, 0]], -1)

    value = vat(predict, jnp.zeros((1, 2)), jnp.ones((1, 2)), steps=3)
    p, q = 0.5, 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(value, [p * np.log(p / q) + p * np.log(p / (1 - q))], rtol=1e-3)


def test_a_critic_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"critic\(inputs\) must have the shape \(2,\) .* got \(2, 3\)"):
        gradient_penalty(lambda x: x, jnp.zeros((2, 3)))
    with pytest.raises(TypeError, match="critic must be a function of the inputs, got int"):
        gradient_penalty(3, jnp.zeros((2, 3)))
    with pytest.raises(TypeError, match="predict must be a function of the inputs, got int"):
        vat(3, jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="examples must hold at least one array"):
        fisher_diagonal(lambda params: params, jnp.zeros(()))


def test_the_penalty_reaches_the_parameters_of_the_critic():
    # D = (w x)^2 / 2 has slope w^2 x: the derivative of (w^2 x - 1)^2 by w is 4 w x (w^2 x - 1).
    slope = jax.grad(lambda w: gradient_penalty(lambda x: (w * x[:, 0]) ** 2 / 2, jnp.full((1, 1), 3.0)).sum())(2.0)
    np.testing.assert_allclose(slope, 4 * 2 * 3 * (4 * 3 - 1), rtol=1e-6)


@pytest.mark.parametrize("check_vma", [True, False])
def test_fisher_information_of_the_global_batch(check_vma):
    def log_likelihood(theta, x):
        return -jnp.sum((x - theta) ** 2) / 2

    theta, x = jnp.array([0.5, -1.0]), jnp.asarray(INPUTS[:, :2])
    where = jnp.arange(6) != 3
    whole = fisher_diagonal(log_likelihood, theta, jnp.where(where[:, None], x, jnp.nan), where=where)
    kept = np.delete(np.asarray(x), 3, 0)
    np.testing.assert_allclose(whole, ((kept - np.asarray(theta)) ** 2).mean(0), rtol=1e-5)
    mesh = jax.make_mesh((3,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:3])
    sharded = jax.shard_map(
        lambda theta, x, where: fisher_diagonal(log_likelihood, theta, x, where=where, axis_name="data"),
        mesh=mesh,
        in_specs=(P(), P("data"), P("data")),
        out_specs=P(),
        check_vma=check_vma,
    )
    np.testing.assert_allclose(jax.jit(sharded)(theta, x, where), whole, rtol=1e-6)


@pytest.mark.parametrize("per", ["batch", "example"])
def test_mixup_is_the_mixture_it_says(per):
    where = jnp.arange(6) != 2
    inputs = jnp.where(where[:, None], INPUTS, jnp.nan)
    out = mixup(jax.random.key(1), inputs, jnp.eye(6), alpha=1.0, per=per, where=where)
    partners, ratios = np.asarray(out.partners), np.asarray(out.ratios)
    assert sorted(partners) == list(range(6))
    assert partners[2] == 2
    assert (len(np.unique(ratios)) == 1) == (per == "batch")
    kept = np.asarray(where)
    expected = ratios[:, None] * INPUTS + (1 - ratios[:, None]) * INPUTS[partners]
    np.testing.assert_allclose(out.inputs[kept], expected[kept], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.targets.sum(-1), kept, rtol=1e-6)
    assert not np.any(out.inputs[2])


def test_cutmix_ratios_are_the_pixels_that_are_left():
    images = jnp.broadcast_to(jnp.arange(8.0).reshape(-1, 1, 1, 1), (8, 16, 12, 1))
    out = cutmix(jax.random.key(2), images, jnp.eye(8), per="example")
    partners = np.asarray(out.partners)
    for i in range(8):
        pixels = np.asarray(out.inputs[i, :, :, 0])
        assert set(np.unique(pixels)) <= {float(i), float(partners[i])}
        if partners[i] != i:
            np.testing.assert_allclose((pixels == i).mean(), out.ratios[i], rtol=1e-6)
            box = pixels != i
            assert box.sum() == box.any(0).sum() * box.any(1).sum()


def test_the_shares_of_cutmix_are_those_of_its_boxes():
    size, per_image = 16, 4000
    out = cutmix(jax.random.key(3), jnp.zeros((per_image, size, size, 1)), jnp.zeros((per_image, 1)), per="example")
    # Each side is cut to 2 (a size // 2) pixels around a uniform centre; a^2 is uniform.
    half = np.floor(np.sqrt(np.linspace(0, 1, 2001)) * size).astype(int)[:, None] // 2
    centre = np.arange(size)[None]
    sides = (np.minimum(centre + half, size) - np.maximum(centre - half, 0)).mean(1) / size
    np.testing.assert_allclose(1 - np.asarray(out.ratios).mean(), (sides**2).mean(), atol=0.015)
