"""The further contrastive losses: what the matrix of properties cannot ask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lossfns

UNIT = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
UNIT /= np.linalg.norm(UNIT, axis=1, keepdims=True)


def test_the_weights_of_circle_have_no_gradient():
    """Equation 10: with constant weights the slope of a similarity is its weight times gamma times its softmax."""
    labels, gamma, m = jnp.array([0, 0, 1, 1]), 8.0, 0.25
    scores = UNIT[0] @ UNIT.T
    push = np.exp(gamma * np.maximum(scores[2:] + m, 0) * (scores[2:] - m))
    pull = np.exp(-gamma * (1 + m - scores[1]) * (scores[1] - 1 + m))
    z = pull * push.sum() / (1 + pull * push.sum())
    slopes = np.array(
        [-z * gamma * (1 + m - scores[1]), *(z * push / push.sum() * gamma * np.maximum(scores[2:] + m, 0))]
    )
    gradient = jax.grad(lambda x: lossfns.circle(x, labels, scale=gamma, margin=m)[0])(jnp.asarray(UNIT))
    along = slopes[:, None] * (UNIT[:1] - scores[1:, None] * UNIT[1:])  # of a unit vector only what is tangential
    np.testing.assert_allclose(gradient[1:], along, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-3, np.pi / 2, np.pi - 1e-3, np.pi])
@pytest.mark.parametrize("beyond", ["cosine", "linear", "easy"])
def test_the_gradient_of_arcface_is_bounded_at_every_angle(angle, beyond):
    x = jnp.array([[np.cos(angle), np.sin(angle)]], jnp.float32)
    value, slope = jax.value_and_grad(
        lambda x: lossfns.arcface(x, jnp.eye(2), jnp.array([0]), scale=1.0, beyond=beyond)[0]
    )(x)
    assert np.isfinite(value)
    assert np.abs(slope).max() <= 2


def test_a_wrong_label_spoils_the_common_number_of_proxy_anchor():
    values = lossfns.proxy_anchor(jnp.asarray(UNIT), jnp.eye(3), jnp.array([0, 1, 3, 2]))
    assert np.isnan(values).all()
    where = jnp.array([True, True, False, True])
    assert np.isfinite(lossfns.proxy_anchor(jnp.asarray(UNIT), jnp.eye(3), jnp.array([0, 1, 3, 2]), where=where)).all()


def test_proxy_nca_needs_another_class():
    with pytest.raises(ValueError, match="at least 2 classes"):
        lossfns.proxy_nca(jnp.ones((2, 3)), jnp.ones((1, 3)), jnp.zeros(2, int))


def test_the_curvature_of_alignment_at_equal_views():
    """Of |u - v|^2 between unit vectors in the plane, along the circle, it is 2."""
    view = jnp.array([[1.0, 0.0]])
    curvature = jax.hessian(lambda y: lossfns.alignment(view, view.at[0, 1].set(y))[0])(0.0)
    np.testing.assert_allclose(curvature, 2, rtol=1e-6)


def test_the_neighbours_of_nnclr_are_of_what_is_in_the_queue():
    a = jnp.asarray(UNIT[:2])
    queue = jnp.concatenate([a, jnp.asarray(UNIT[2:])])
    only = lossfns.nnclr(a, a, a, a, queue, queue_where=jnp.array([False, False, True, True]))
    np.testing.assert_allclose(only, lossfns.nnclr(a, a, a, a, queue[2:]), rtol=1e-6)
    assert np.isnan(lossfns.nnclr(a, a, a, a, queue, queue_where=jnp.zeros(4, bool))).all()


def test_hard_negatives_are_drawn_by_similarity_and_never_the_match():
    keys = jax.random.split(jax.random.key(0), 4000)
    x, where = jnp.asarray(UNIT), jnp.array([True, True, True, False])
    drawn = jax.vmap(lambda key: lossfns.hard_negative_pairs(key, x, x, temperature=0.5, where=where))(keys)
    odds = np.exp(2 * (UNIT @ UNIT.T)[0, 1:3])
    for rows in np.asarray(drawn[:2]):
        assert (rows[:, :3] != np.arange(3)).all()
        assert (rows[:, :3] < 3).all()
        np.testing.assert_allclose((rows[:, 0] == 1).mean(), odds[0] / odds.sum(), atol=0.03)
    assert (np.asarray(drawn.present) == np.asarray(where)).all()
    alone = lossfns.hard_negative_pairs(keys[0], x[:1], x[:1])
    assert not alone.present.any()
