"""Rows of the losses of preference that need no reference or no pair, and of what feeds them."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import preference as oracles
from tests.rows import zeros

INF = np.inf


def two_averages(rng, rows):
    return tuple(-rng.uniform(0.2, 3, (2, rows)))


def wrong_two(name, value):
    return (
        BadCall((zeros(3), zeros(3, 1)), ("rejected", "(3,)", "(3, 1)")),
        BadCall((zeros(3, dtype=np.int32), zeros(3)), ("chosen", "floating", "int32")),
        BadCall((zeros(3), zeros(3, dtype=np.int32)), ("rejected", "floating", "int32")),
        BadCall((zeros(3), zeros(3)), (name, str(value)), {name: value}),
    )


def naive_orpo(chosen, rejected):
    odds = (chosen - rejected) - (jnp.log(1 - jnp.exp(chosen)) - jnp.log(1 - jnp.exp(rejected)))
    return -chosen - 0.1 * jnp.log(jax.nn.sigmoid(odds))


ORPO = LossCase(
    lossfns.orpo,
    two_averages,
    oracles.orpo,
    naive_orpo,
    variants=({}, {"weight": 1.0, "with_nll": False}),
    sweep={"weight": (0.1, 0.2, 0.5)},
    hostile=lambda rng: {
        "nearly certain": ((np.array([-1e-8, -1e-3, -1e-8, -2e-8]), np.array([-1.0, -1e-8, -2e-8, -2e-8])), {}),
        "certain": ((np.array([0.0, -1, 0]), np.array([-1.0, 0, 0])), {"weight": 1.0}),
        "impossible": ((np.array([-INF, -1]), np.array([-1, -INF])), {}),
        "no log-probabilities": ((np.array([0.5, -1]), np.array([-1, 0.5])), {}),
    },
    non_negative=True,
    bad_calls=(*wrong_two("weight", -1), BadCall((zeros(3), zeros(3)), ("with_nll", "1"), {"with_nll": 1})),
)


def hostile_pairs(rng):
    return {
        "averages of +-1e4": ((np.array([-1e4, 0]), np.array([0, -1e4])), {}),
        "impossible": ((np.array([-INF, -1]), np.array([-1, -INF])), {}),
    }


SIMPO = LossCase(
    lossfns.simpo,
    two_averages,
    oracles.simpo,
    lambda x, y: -jnp.log(jax.nn.sigmoid(2 * (x - y) - 0.5)),
    variants=({}, {"beta": 10.0, "gamma": 1.0, "label_smoothing": 0.1}),
    sweep={"beta": (2.0, 2.5, 10.0), "gamma": (0.0, 0.5, 1.0), "label_smoothing": (0.1, 0.2, 0.3)},
    hostile=hostile_pairs,
    non_negative=True,
    condition=lambda kwargs: kwargs.get("beta", 2.0) / 2,
    bad_calls=(
        *wrong_two("beta", 0),
        BadCall((zeros(3), zeros(3)), ("gamma", "inf"), {"gamma": INF}),
        BadCall((zeros(3), zeros(3)), ("label_smoothing", "-0.5"), {"label_smoothing": -0.5}),
    ),
)
CPO = LossCase(
    lossfns.cpo,
    two_averages,
    oracles.cpo,
    lambda x, y: -jnp.log(jax.nn.sigmoid(0.1 * (x - y))) - x,
    variants=({}, {"beta": 0.5, "label_smoothing": 0.1, "nll_weight": 0}),
    sweep={"beta": (0.1, 0.2, 0.5), "label_smoothing": (0.1, 0.2, 0.3), "nll_weight": (0.5, 1.0, 2.0)},
    hostile=hostile_pairs,
    limits={
        "DPO with a uniform reference": lambda x: (
            lossfns.cpo(*x, nll_weight=0),
            lossfns.dpo(*x, np.full_like(x[0], -2), np.full_like(x[0], -2)),
        )
    },
    bad_calls=(*wrong_two("beta", 0), BadCall((zeros(3), zeros(3)), ("nll_weight", "-1"), {"nll_weight": -1})),
)
SLIC_HINGE = LossCase(
    lossfns.slic_hinge,
    two_averages,
    oracles.slic_hinge,
    lambda x, y: jnp.maximum(0, 1 - x + y),
    variants=({}, {"margin": 0.3}),
    sweep={"margin": (0.5, 1.0, 2.0)},
    hostile=hostile_pairs,
    non_negative=True,
    bad_calls=wrong_two("margin", -1),
)


def marked_answers(rng, rows):
    policy, reference = -rng.uniform(1, 6, (2, rows))
    return policy, reference, rng.integers(0, 2, rows).astype(np.int32)


def kto_rows(rng, rows):
    off = -rng.uniform(1, 6, rows)
    return *marked_answers(rng, rows), off, off - rng.uniform(-0.5, 2, rows)


def naive_kto(policy, reference, desirable, off_policy, off_reference):
    z = jax.lax.stop_gradient(jnp.maximum(0, (off_policy - off_reference).mean()))
    gain = 0.1 * (policy - reference - z)
    return jnp.where(desirable == 1, 1 - jax.nn.sigmoid(gain), 1 - jax.nn.sigmoid(-gain))


def hostile_kto(rng):
    policy, reference, desirable, off_policy, off_reference = kto_rows(rng, 4)
    return {
        "a divergence below 0": ((policy, reference, desirable, off_reference - 5, off_policy), {}),
        "booleans": ((policy, reference, desirable == 1, off_policy, off_reference), {}),
        "strong beta": ((policy * 1e3, reference, desirable, off_policy, off_reference), {"beta": 50.0}),
    }


KTO = LossCase(
    lossfns.kto,
    kto_rows,
    oracles.kto,
    naive_kto,
    variants=({}, {"beta": 0.5, "desirable_weight": 1.5, "undesirable_weight": 0.5}),
    sweep={"beta": (0.1, 0.2, 0.5), "desirable_weight": (1.0, 1.2, 1.33), "undesirable_weight": (1.0, 1.2, 1.33)},
    labels=2,
    num_classes=lambda *x: 2,
    batch_coupled=True,
    differentiable=(0, 1),  # the point of reference is a constant for the gradient
    nan_stays=dict.fromkeys((0, 1), "the rows share the gain of the mismatched answers alone"),
    hostile=hostile_kto,
    non_negative=True,
    bad_calls=(
        BadCall((zeros(3), zeros(3), zeros(3), zeros(3), zeros(3)), ("desirable", "boolean", "float32")),
        BadCall((zeros(3), zeros(3), zeros(3, dtype=bool), zeros(1), zeros(3)), ("mismatched_policy", "(3,)", "(1,)")),
        BadCall((zeros(3, dtype=np.int32), *(zeros(3, dtype=bool),) * 4), ("policy", "floating", "int32")),
        BadCall((zeros(3), zeros(3), zeros(3, dtype=bool), zeros(3), zeros(3)), ("beta", "0"), {"beta": 0}),
    ),
)


def naive_bco(policy, reference, desirable):
    logit = 0.1 * (policy - reference)
    return -jnp.log(jnp.where(desirable == 1, jax.nn.sigmoid(logit), jax.nn.sigmoid(-logit)))


BCO = LossCase(
    lossfns.bco,
    marked_answers,
    oracles.bco,
    naive_bco,
    variants=({}, {"beta": 0.5, "shift": -0.3}),
    sweep={"beta": (0.1, 0.2, 0.5), "shift": (0.0, 0.5, 1.0)},
    unlike_differences={"shift": "it is the mean of earlier rewards, a constant"},
    labels=2,
    num_classes=lambda *x: 2,
    hostile=lambda rng: {"strong beta": (marked_answers(rng, 4), {"beta": 1e4})},
    non_negative=True,
    limits={
        "binary cross-entropy": lambda x: (
            lossfns.bco(*x, beta=0.5, shift=0.25),
            lossfns.sigmoid_cross_entropy(jnp.asarray(0.5 * (x[0] - x[1]) - np.float32(0.25)), jnp.asarray(x[2])),
        )
    },
    outside={2: (-1, 2)},
    bad_calls=(
        BadCall((zeros(3), zeros(3), zeros(3)), ("desirable", "boolean", "float32")),
        BadCall((zeros(3), zeros(2), zeros(3, dtype=bool)), ("reference", "(3,)", "(2,)")),
        BadCall((zeros(3), zeros(3), zeros(3, 1, dtype=bool)), ("desirable", "(3,)", "(3, 1)")),
        BadCall((zeros(3), zeros(3), zeros(3, dtype=bool)), ("beta", "-1"), {"beta": -1}),
    ),
)


def reward_shift(rewards, *, where=None, axis_name=None):
    state = lossfns.RewardShift(jnp.asarray(2.0, jnp.float32), jnp.asarray(3.0, jnp.float32))
    return jnp.stack(lossfns.update_reward_shift(state, rewards, where=where, axis_name=axis_name))


REWARD_SHIFT = LossCase(
    reward_shift,
    lambda rng, rows: (rng.normal(size=rows),),
    oracles.reward_shift,
    name="update_reward_shift",
    batched=False,
    differentiable=(),
    hostile=lambda rng: {"no reward": ((np.zeros(0),), {})},
    bad_calls=(
        BadCall((zeros(3, dtype=np.int32),), ("rewards", "floating", "int32")),
        BadCall((zeros(3),), ("where", "(3,)", "(2,)"), {"where": np.ones(2, bool)}),
        BadCall((zeros(3),), ("where", "boolean", "float32"), {"where": zeros(3)}),
    ),
    skip={"devices = one device": "every device returns the global mean; tests/lossfns/test_preference.py compares"},
)


def rewards(rng, rows):
    return tuple(rng.normal(size=(2, rows)) * 2)


BRADLEY_TERRY = LossCase(
    lossfns.bradley_terry,
    rewards,
    oracles.bradley_terry,
    lambda x, y: -jnp.log(jax.nn.sigmoid(x - y)),
    variants=({}, {"margin": 0.5, "centring": 0.01}),
    sweep={"margin": (0.0, 0.5, 1.0), "centring": (0.01, 0.1, 1.0)},
    hostile=lambda rng: hostile_pairs(rng) | {"both + 1e4": (tuple(x + 1e4 for x in rewards(rng, 4)), {})},
    non_negative=True,
    limits={
        "only the difference counts": lambda x: (
            lossfns.bradley_terry(x[0] + np.float32(8), x[1] + np.float32(8)),
            lossfns.bradley_terry(*x),
        )
    },
    bad_calls=(
        *wrong_two("centring", -1),
        BadCall((zeros(3), zeros(3)), ("margin", "(3,)", "(2,)"), {"margin": zeros(2)}),
        BadCall((zeros(3), zeros(3)), ("margin", "finite", "nan"), {"margin": math.nan}),
    ),
)


def bradley_terry_of_margins(chosen, rejected, margins, *, where=None):
    return lossfns.bradley_terry(chosen, rejected, margin=margins, centring=0.01, where=where)


BRADLEY_TERRY_OF_MARGINS = LossCase(
    bradley_terry_of_margins,
    lambda rng, rows: (*rewards(rng, rows), rng.uniform(0, 2, rows)),
    lambda *x: oracles.bradley_terry(*x, centring=0.01),
)


def sequences(logits, tokens, answer, *, average=False, where=None):
    """Rows are deleted by masking all of their tokens."""
    answer = answer if where is None else answer & where[:, None]
    return lossfns.sequence_log_probs(logits, tokens, average=average, where=answer)


def sequence_rows(rng, rows):
    tokens = rng.integers(0, 5, (rows, 4)).astype(np.int32)
    return rng.normal(size=(rows, 4, 5)) * 2, tokens, np.arange(4) >= rng.integers(1, 4, (rows, 1))


def naive_sequences(logits, tokens, answer):
    log_probs = jnp.log(jax.nn.softmax(logits[:, :-1], -1))
    return (jnp.take_along_axis(log_probs, tokens[:, 1:, None], -1)[..., 0] * answer[:, 1:]).sum(-1)


def hostile_sequences(rng):
    logits, tokens, answer = sequence_rows(rng, 3)
    masked = np.where(np.arange(5) == tokens[:, :1, None], -INF, logits)
    return {
        "logits + 1e4": ((logits + 1e4, tokens, answer), {}),
        "masked classes": ((masked, np.broadcast_to((tokens[:, :1] + 1) % 5, tokens.shape), answer), {}),
        "an impossible token": ((masked, np.broadcast_to(tokens[:, :1], tokens.shape), answer), {}),
        "a wrong token in the prompt": ((logits, np.where(answer, tokens, -100), answer), {}),
        "no answer": ((logits, tokens, answer & False), {"average": True}),
        "one position": ((logits[:, :1], tokens[:, :1], answer[:, :1]), {}),
    }


SEQUENCE_LOG_PROBS = LossCase(
    sequences,
    sequence_rows,
    oracles.sequence_log_probs,
    naive_sequences,
    name="sequence_log_probs",
    variants=({}, {"average": True}),
    labels=1,
    shift_invariant=(0,),
    hostile=hostile_sequences,
    limits={
        "minus the sum of next_token": lambda x: (
            sequences(*x),
            -lossfns.next_token(jnp.asarray(x[0]), jnp.asarray(x[1]), where=jnp.asarray(x[2])).sum(-1),
        ),
        "padding changes nothing": lambda x: (
            sequences(*(np.concatenate([y, y[:, :2]], 1) for y in x[:2]), np.pad(x[2], ((0, 0), (0, 2)))),
            sequences(*x),
        ),
    },
    bad_calls=(
        BadCall((zeros(2, 3, 4), zeros(2, 4, dtype=np.int32), zeros(2, 4, dtype=bool)), ("tokens", "(2, 3)", "(2, 4)")),
        BadCall((zeros(2, 3, 4), zeros(2, 3), zeros(2, 3, dtype=bool)), ("tokens", "integer", "float32")),
        BadCall((zeros(4), zeros(dtype=np.int32), zeros(dtype=bool)), ("two last axes", "(4,)")),
        BadCall((zeros(2, 3, 4), zeros(2, 3, dtype=np.int32), zeros(2, 3)), ("where", "boolean", "float32")),
        BadCall(
            (zeros(2, 3, 4), zeros(2, 3, dtype=np.int32), zeros(2, 3, dtype=bool)), ("average", "1"), {"average": 1}
        ),
    ),
)


ROWS = {
    "bco": BCO,
    "bradley_terry": BRADLEY_TERRY,
    "bradley_terry with margins": BRADLEY_TERRY_OF_MARGINS,
    "cpo": CPO,
    "kto": KTO,
    "orpo": ORPO,
    "sequence_log_probs": SEQUENCE_LOG_PROBS,
    "simpo": SIMPO,
    "slic_hinge": SLIC_HINGE,
    "update_reward_shift": REWARD_SHIFT,
}
