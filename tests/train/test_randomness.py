"""Dropout and augmentation: no two of step, micro-batch and device draw the same, and a resumed run draws as before."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.models.vision import AugmentConfig, augment
from tests.train.support.exact_cases import BACKENDS
from train import Term, build_train_step, create_state, data_parallel

SIZE, STEPS = 32, 3
BATCH = {"row": np.arange(SIZE)}
OPTIMIZER = optax.adam(0.1)


def objective(params, batch, ctx):
    """What each row of the batch is given to see; a term with its two last axes kept is a table with a line a row."""
    count = len(batch["row"])
    mask = nn.Dropout(0.5, deterministic=False).apply({}, jnp.ones((count, 40)), rngs={"dropout": ctx.key})
    view = augment(ctx.key, jnp.ones((count, 4, 4, 1)), AugmentConfig()).reshape(count, -1)
    place = jax.nn.one_hot(batch["row"], SIZE)[:, :, None]
    return {
        "total": Term(params["w"] * jnp.ones(count), weights=1),
        "mask": Term(place * mask[:, None, :], keep=2),
        "view": Term(place * view[:, None, :], keep=2),
    }


@functools.cache
def compiled(backend):
    step = build_train_step(objective, OPTIMIZER, loss_weights={"total": 1.0}, accumulate=2)
    return data_parallel(step, devices=jax.devices()[:4], donate=False, **BACKENDS[backend])


def run(state, steps, backend):
    seen = []
    for _ in range(steps):
        state, metrics = jax.block_until_ready(compiled(backend)(state, BATCH))
        seen.append({name: np.asarray(metrics[name][0]) for name in ("mask", "view")})
    return state, seen


def on_the_host_and_back(state):
    """As through a checkpoint."""
    stored = jax.device_get(state.replace(key=jax.random.key_data(state.key)))
    return stored.replace(key=jax.random.wrap_key_data(stored.key))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_two_rows_of_a_run_see_the_same_and_a_resumed_run_sees_it_again(backend):
    start = create_state({"w": jnp.ones(())}, OPTIMIZER, key=0)
    after_one, first = run(start, 1, backend)
    _, rest = run(on_the_host_and_back(after_one), STEPS - 1, backend)
    for name in ("mask", "view"):
        rows = np.concatenate([step[name] for step in first + rest])
        assert len(rows) == STEPS * SIZE
        assert len(np.unique(rows, axis=0)) == len(rows)
    np.testing.assert_allclose(np.mean([step["mask"] for step in first + rest]), 1.0, atol=0.1)  # 0 or 2
    _, whole = run(start, STEPS, backend)
    jax.tree.map(np.testing.assert_array_equal, whole, first + rest)


def test_another_seed_draws_other_numbers():
    params = {"w": jnp.ones(())}
    (_, one), (_, other) = (run(create_state(params, OPTIMIZER, key=seed), 1, "jit") for seed in (0, 1))
    assert not np.any(np.all(one[0]["mask"] == other[0]["mask"], axis=1))
