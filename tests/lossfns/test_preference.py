"""Numbers of the losses of preference that can be worked out by hand, and what the matrix does not ask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import lossfns


def four(*numbers):
    return tuple(jnp.array([x], jnp.float32) for x in numbers)


# The margin is (-10 + 12) - (-14 + 13) = 3, and beta 0.1.
PAIR = four(-10.0, -14.0, -12.0, -13.0)


@pytest.mark.parametrize(
    ("loss", "options", "expected"),
    [
        ("dpo", {}, 0.5543552),
        ("dpo", {"label_smoothing": 0.1}, 0.5843552),
        ("robust_dpo", {"flip_rate": 0.1}, 0.5168552),
        ("ipo", {}, 4.0),
        # TRL's label smoothing of 1e-3.
        ("exo", {"label_smoothing": 1e-3}, 0.5744425 * (-0.5543552 + 0.0010005) + 0.4255575 * (-0.8543552 + 6.9077553)),
        ("nca", {}, 0.5981389 + 0.7981389 / 2 + 0.6443967 / 2),
        ("sppo", {"beta": 0.5}, (1.0 + 0.0) / 2),
        ("apo", {}, 0.4501660 + 0.4750208),
        ("apo", {"form": "down"}, 0.5498340 + 0.4255575),
    ],
)
def test_values_by_hand(loss, options, expected):
    np.testing.assert_allclose(getattr(lossfns, loss)(*PAIR, **options), [expected], rtol=1e-6)


def test_averages_make_another_ipo():
    # A margin of 5 nats over answers of 10 tokens: at the target of 1 / (2 tau) = 5, or 4.5 short of it.
    summed, averaged = four(-10.0, -15.0, -10.0, -10.0), four(-1.0, -1.5, -1.0, -1.0)
    np.testing.assert_allclose(lossfns.ipo(*summed), [0.0], atol=1e-9)
    np.testing.assert_allclose(lossfns.ipo(*averaged), [20.25], rtol=1e-6)


def test_a_mask_taken_before_the_shift_scores_another_token():
    probabilities = jnp.array([[0.5, 0.25, 0.25], [0.125, 0.5, 0.375], [0.25, 0.5, 0.25], [0.3, 0.3, 0.4]])
    tokens = jnp.array([[0, 1, 2, 1]])
    answer = jnp.array([[False, False, True, True]])
    value = lossfns.sequence_log_probs(jnp.log(probabilities)[None], tokens, where=answer)
    np.testing.assert_allclose(value, [np.log(0.375 * 0.5)], rtol=1e-6)


def test_sums_of_bfloat16_logits_are_float32():
    logits = jnp.zeros((1, 1001, 8), jnp.bfloat16)
    value = lossfns.sequence_log_probs(logits, jnp.zeros((1, 1001), int))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, [-1000 * np.log(8)], rtol=1e-6)


def test_gradient_of_the_odds_ratio_at_certainty_is_its_limit():
    def loss(x, y):
        return lossfns.orpo(x, y, weight=1.0, with_nll=False)

    slopes = jax.grad(loss, argnums=(0, 1))
    near = slopes(jnp.float32(-1e-6), jnp.float32(-1.0))
    at = slopes(jnp.float32(0.0), jnp.float32(-1.0))
    odds = np.exp(-1) / (1 - np.exp(-1))
    np.testing.assert_allclose(at, [-odds, 0.0], rtol=1e-6)
    np.testing.assert_allclose(near, at, atol=1e-5)


def test_log1mexp_keeps_its_digits_near_certainty():
    # log(-expm1(-1e-8)) is log 1e-8; log1p(-exp(-1e-8)) is -inf in float32.
    value = lossfns.orpo(jnp.float32(-1e-8), jnp.log(jnp.float32(0.5)), weight=1.0, with_nll=False)
    np.testing.assert_allclose(value, np.log1p(1e-8), rtol=1e-5)


def test_point_of_reference_of_kto_is_global_and_has_no_gradient():
    zero, good = jnp.zeros(2), jnp.ones(2, bool)
    mismatched = jnp.array([-1.0, 3.0])
    value = lossfns.kto(zero, zero, good, mismatched, zero, beta=1.0)
    np.testing.assert_allclose(value, jax.nn.sigmoid(jnp.full(2, 1.0)), rtol=1e-6)
    alone = [lossfns.kto(zero[:1], zero[:1], good[:1], m[None], zero[:1], beta=1.0) for m in mismatched]
    np.testing.assert_allclose(jnp.concatenate(alone), jax.nn.sigmoid(jnp.array([0.0, 3.0])), rtol=1e-6)
    slope = jax.grad(lambda m: lossfns.kto(zero, zero, good, m, zero).sum())(mismatched)
    np.testing.assert_array_equal(slope, 0)


def test_reward_shift_of_devices_is_that_of_all_rewards():
    state = lossfns.RewardShift(jnp.array(2.0), jnp.array(3.0))
    rewards, where = jnp.arange(8.0), jnp.arange(8) != 3
    mesh = jax.make_mesh((4,), ("shards",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])

    def update(rewards, where):
        return lossfns.update_reward_shift(state, rewards, where=where, axis_name="shards")

    spread = jax.jit(jax.shard_map(update, mesh=mesh, in_specs=P("shards"), out_specs=P()))(rewards, where)
    np.testing.assert_allclose(spread, [(6 + 25) / 10, 10], rtol=1e-6)
    once = lossfns.update_reward_shift(state, rewards[:4], where=where[:4])
    np.testing.assert_allclose(lossfns.update_reward_shift(once, rewards[4:]), spread, rtol=1e-6)


def test_hyper_parameters_may_be_traced():
    values = jax.jit(lambda beta: lossfns.dpo(*PAIR, beta=beta))(0.1)
    np.testing.assert_allclose(values, lossfns.dpo(*PAIR), rtol=1e-6)
    slope = jax.grad(lambda beta: lossfns.dpo(*PAIR, beta=beta).sum())(0.1)
    np.testing.assert_allclose(slope, -3 * jax.nn.sigmoid(-0.3), rtol=1e-6)


def test_a_reward_shift_of_a_negative_number_of_rewards_is_nan():
    state = lossfns.preference.unpaired.RewardShift(jnp.array(1.0), jnp.array(-2.0))
    new = lossfns.update_reward_shift(state, jnp.array([3.0, 5.0]))
    assert np.isnan(new.shift)
    assert np.isnan(new.number)
