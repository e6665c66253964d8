"""Numbers of the losses of reinforcement learning that can be worked out by hand, and their expectations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lossfns

LOGITS = jnp.array([0.3, -0.8, 1.1, 0.0])
REFERENCE = jax.nn.log_softmax(jnp.array([-0.5, 0.4, 0.2, 1.0]))


def expected_gradient(kind):
    """The gradient of the estimate as a loss, in expectation over all samples, which are held fixed."""
    probabilities = jax.nn.softmax(LOGITS)

    def loss(logits):
        return jnp.sum(probabilities * lossfns.kl_estimate(jax.nn.log_softmax(logits), REFERENCE, kind=kind))

    return jax.grad(loss)(LOGITS)


def reverse(logits):
    log_probs = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_probs) * (log_probs - REFERENCE))


def forward(logits):
    return jnp.sum(jnp.exp(REFERENCE) * (REFERENCE - jax.nn.log_softmax(logits)))


def test_expected_gradients_of_the_kl_estimates():
    np.testing.assert_allclose(expected_gradient("k1"), np.zeros(4), atol=1e-7)
    np.testing.assert_allclose(expected_gradient("k2"), jax.grad(reverse)(LOGITS), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(expected_gradient("k3"), jax.grad(forward)(LOGITS), rtol=1e-5, atol=1e-7)
    assert not np.allclose(jax.grad(reverse)(LOGITS), jax.grad(forward)(LOGITS), rtol=0.1)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_expectations_of_the_kl_estimates(kind):
    mean = jnp.sum(jax.nn.softmax(LOGITS) * lossfns.kl_estimate(jax.nn.log_softmax(LOGITS), REFERENCE, kind=kind))
    np.testing.assert_allclose(mean, reverse(LOGITS), rtol=1e-6)


def test_k3_keeps_its_digits_and_its_sign_near_0():
    difference = jnp.array([1e-4, -1e-4, 1e-6, 0.4999, 0.5001])
    value = lossfns.kl_estimate(difference, jnp.zeros(5))
    exact = np.float64(difference)
    np.testing.assert_allclose(value, np.expm1(-exact) + exact, rtol=1e-6)


def test_the_policy_gradient_of_rloo_is_unbiased():
    # Two answers to one prompt, drawn out of three: the mean over all pairs is the gradient of the expected reward.
    logits, rewards = jnp.array([0.2, -0.4, 0.9]), jnp.array([1.0, 0.0, 3.0])
    p = jax.nn.softmax(logits)
    total = jnp.zeros(3)
    for i in range(3):
        for j in range(3):
            advantages = lossfns.rloo(rewards[jnp.array([i, j])])
            pair = jnp.array([i, j])
            loss = jax.grad(lambda x: jnp.mean(lossfns.policy_gradient(jax.nn.log_softmax(x)[pair], advantages)))  # noqa: B023
            total += p[i] * p[j] * loss(logits)
    expected = jax.grad(lambda x: -jnp.sum(jax.nn.softmax(x) * rewards))(logits)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1.4997),
        ({"ddof": 0}, 1.7317),
        ({"epsilon": 1e-6}, 1.5),
        ({"ddof": 0, "epsilon": 1e-2}, 1.6930),
        ({"epsilon": 1e-8}, 1.5),
        ({"scale": False}, 0.75),
    ],
)
def test_group_advantages_of_one_right_answer_in_four(options, expected):
    value = lossfns.group_advantages(jnp.array([1.0, 0.0, 0.0, 0.0]), **options)
    np.testing.assert_allclose(value[0], expected, atol=5e-5)


def test_a_masked_answer_leaves_its_group():
    rewards = jnp.array([1.0, jnp.nan, 0.0, 0.0])
    where = jnp.array([True, False, True, True])
    for advantages in (lossfns.group_advantages, lossfns.rloo):
        expected = advantages(rewards[where])
        np.testing.assert_allclose(advantages(rewards, where=where)[where], expected, rtol=1e-6)
    log_probs = jnp.zeros((4, 2))
    value = lossfns.grpo(log_probs, log_probs, rewards, where=jnp.broadcast_to(where[:, None], (4, 2)))
    np.testing.assert_allclose(value[where][:, 0], -lossfns.group_advantages(rewards[where]), rtol=1e-6)
    np.testing.assert_array_equal(value[1], 0)


@pytest.mark.parametrize("place", [0, 2, 4])
def test_gae_skips_masked_steps(place):
    rng = np.random.default_rng(0)
    rewards, values = jnp.asarray(rng.normal(size=(2, 2, 5)), jnp.float32)
    where = jnp.arange(5) != place
    rewards, values = rewards.at[:, place].set(jnp.nan), values.at[:, place].set(jnp.inf)
    options = {"discount": 0.9, "decay": 0.8}
    value = lossfns.gae(rewards, values, where=jnp.broadcast_to(where, (2, 5)), **options)
    np.testing.assert_allclose(value[:, where], lossfns.gae(rewards[:, where], values[:, where], **options), rtol=1e-6)
    np.testing.assert_array_equal(value[:, place], 0)


def test_gradient_of_ppo_is_there_where_it_must_be():
    # Ratio 2 and 1/2, advantage +-1: no gradient where the ratio is already too far in the direction it should go.
    old = jnp.zeros(4)
    new, advantages = jnp.log(jnp.array([2.0, 2.0, 0.5, 0.5])), jnp.array([1.0, -1.0, 1.0, -1.0])
    slope = jax.grad(lambda x: lossfns.ppo_clip(x, old, advantages).sum())(new)
    np.testing.assert_allclose(slope, [0.0, 2.0, -0.5, 0.0], rtol=1e-6)
    slope = jax.grad(lambda x: lossfns.ppo_clip(x, old, advantages, dual_clip=1.5).sum())(new)
    np.testing.assert_allclose(slope, [0.0, 0.0, -0.5, 0.0], rtol=1e-6)


def test_cispo_keeps_the_gradient_of_clipped_tokens():
    old, rewards = jnp.zeros((2, 1)), jnp.array([1.0, -1.0])
    new = jnp.log(jnp.array([[8.0], [0.25]]))
    slope = jax.grad(lambda x: lossfns.cispo(x, old, rewards, ddof=0, epsilon=0.0).sum())(new)
    np.testing.assert_allclose(slope, [[-5.0], [0.25]], rtol=1e-6)


def test_gspo_of_a_sequence_has_the_gradient_of_its_geometric_mean():
    rng = np.random.default_rng(0)
    new, old = jnp.asarray(rng.normal(size=(2, 2, 3)) * 1e-4, jnp.float32)
    rewards, where = jnp.array([1.0, 0.0]), jnp.array([[True, True, False], [True, True, True]])
    advantages, lengths = lossfns.group_advantages(rewards), jnp.array([2.0, 3.0])

    def by_answer(x):
        ratio = jnp.exp(jnp.sum(jnp.where(where, x - old, 0), -1) / lengths)
        return jnp.mean(-jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - 3e-4, 1 + 4e-4) * advantages))

    def by_token(x):
        values = lossfns.gspo(x, old, rewards, where=where)
        return lossfns.weighted_mean(values, lossfns.token_weights(where, normalizer="sequence"))

    actual, expected = jax.value_and_grad(by_token)(new), jax.value_and_grad(by_answer)(new)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), actual, expected)


def batch():
    rng = np.random.default_rng(1)
    new = jnp.asarray(rng.normal(size=(4, 3, 5)), jnp.float32)
    rewards = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    lengths = rng.integers(1, 6, (4, 3))
    lengths[2, 1] = 0  # nothing of this answer is left
    where = jnp.asarray(np.arange(5) < lengths[..., None])
    return new, new + jnp.asarray(rng.normal(size=new.shape), jnp.float32) / 4, rewards, where


def paper(values, where, normalizer):
    """What the papers write, with sums and means taken where they take them."""
    sums, lengths = np.where(where, values, 0).sum(-1), np.asarray(where).sum(-1)
    present = lengths > 0
    return {
        "sequence": (sums[present] / lengths[present]).mean(),
        "group_tokens": (sums.sum(-1) / lengths.sum(-1)).mean(),
        "global_tokens": sums.sum() / lengths.sum(),
        "batch_tokens": sums.sum() / lengths.sum(),
        "constant": sums.sum() / 8 / present.sum(),
    }[normalizer]


@pytest.mark.parametrize("normalizer", ["sequence", "group_tokens", "global_tokens", "batch_tokens", "constant"])
def test_weights_make_the_mean_of_the_paper_at_any_split(normalizer):
    new, old, rewards, where = batch()
    plain = lossfns.grpo(new, old, rewards, where=where)
    options = {"normalizer": normalizer, "length": 8.0 if normalizer == "constant" else None}

    def parts(x, count):
        """Values and weights of micro-batches, one after the other."""
        split = [jnp.split(y, count) for y in (x, old, rewards, where)]
        values = [lossfns.grpo(*three, where=mask, **options) for *three, mask in zip(*split, strict=True)]
        weights = [lossfns.token_weights(mask, normalizer=normalizer) for mask in split[3]]
        return jnp.concatenate(values), jnp.concatenate(weights)

    def mean(x, count):
        return lossfns.weighted_mean(*parts(x, count))

    whole = jax.value_and_grad(mean)(new, 1)
    np.testing.assert_allclose(whole[0], paper(plain, where, normalizer), rtol=1e-5)
    halves = jax.value_and_grad(mean)(new, 2)
    if normalizer == "batch_tokens":  # a mean of the micro-batches' means, which is what it says
        means = [paper(plain[i : i + 2], where[i : i + 2], normalizer) for i in (0, 2)]
        np.testing.assert_allclose(halves[0], np.mean(means), rtol=1e-5)
        assert abs(float(halves[0] - whole[0])) > 1e-3
    else:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), halves, whole)


def test_padding_changes_no_mean():
    new, old, rewards, where = batch()
    padded = [jnp.pad(x, ((0, 0), (0, 0), (0, 3))) for x in (new, old, where)]
    for normalizer in ("sequence", "group_tokens", "global_tokens", "constant"):
        options = {"normalizer": normalizer, "length": 8.0 if normalizer == "constant" else None}
        means = [
            lossfns.weighted_mean(
                lossfns.grpo(x, y, rewards, where=mask, **options), lossfns.token_weights(mask, normalizer=normalizer)
            )
            for x, y, mask in ((new, old, where), padded)
        ]
        np.testing.assert_allclose(means[1], means[0], rtol=1e-5)


def test_advantages_made_beforehand():
    # Groups may be split as long as their advantages were made of whole ones.
    new, old, rewards, where = batch()
    advantages = lossfns.group_advantages(rewards, where=where.any(-1))
    flat = [x.reshape(12, 5) for x in (new, old, where)]
    value = lossfns.grpo(flat[0], flat[1], advantages.reshape(12), where=flat[2], advantages="given")
    whole = lossfns.grpo(new, old, rewards, where=where)
    np.testing.assert_allclose(value.reshape(4, 3, 5), whole, rtol=1e-5, atol=1e-6)
