import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train import TrainState, create_state


def state_of(params, **fields):
    return create_state(params, optax.adam(0.1), key=0, **fields)


def test_starts_at_step_zero_with_the_optimizer_state():
    state = state_of({"w": jnp.ones(3)})
    assert (int(state.step), state.step.dtype) == (0, jnp.int32)
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(optax.adam(0.1).init({"w": jnp.ones(3)}))
    assert (state.ema, state.frozen, state.state) == (None, None, None)


@pytest.mark.parametrize("key", [7, np.int64(7), jax.random.key(7), jax.random.key_data(jax.random.key(7))])
def test_key_is_a_seed_or_a_key(key):
    state = create_state({"w": jnp.ones(1)}, optax.sgd(0.1), key=key)
    assert jax.random.key_data(state.key).tolist() == jax.random.key_data(jax.random.key(7)).tolist()
    assert jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)


def test_everything_is_copied():
    params, key = {"w": jnp.ones(3)}, jax.random.key(1)
    state = create_state(params, optax.sgd(0.1), key=key, ema=True, frozen=params, state=params)
    jax.block_until_ready(jax.jit(lambda s: jax.tree.map(lambda x: x, s), donate_argnums=0)(state))
    assert params["w"].tolist() == [1.0, 1.0, 1.0]
    assert jax.random.key_data(key).tolist() == jax.random.key_data(jax.random.key(1)).tolist()


def test_numpy_parameters_are_not_aliased():
    w = np.ones(4096, np.float32)
    state = state_of({"w": w})
    w[:] = 5
    assert float(state.params["w"].max()) == 1.0


def test_average_starts_at_the_parameters_in_float32():
    state = state_of({"w": jnp.full(2, 3.0, jnp.bfloat16), "n": jnp.array(3)}, ema=True)
    assert state.ema["w"].tolist() == [3.0, 3.0]
    assert (state.ema["w"].dtype, state.ema["n"].dtype) == (jnp.float32, jnp.int32)


def test_python_numbers_are_not_weakly_typed():
    state = state_of({"w": 1.0, "v": jnp.asarray(2.0)}, state={"n": 0})
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((state.params, state.opt_state, state.state)))


def test_replace_and_frozen():
    state = state_of({"w": jnp.ones(1)})
    assert int(state.replace(step=jnp.array(5)).step) == 5
    assert int(state.step) == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.step = 1


def test_tree_round_trip():
    state = state_of({"w": jnp.ones(3), "deep": [jnp.zeros(2), (jnp.ones(()),)]}, ema=True, state={"n": 1})
    leaves, structure = jax.tree.flatten(state)
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, TrainState)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), leaves, strict=True))
    assert [f.name for f in dataclasses.fields(again) if getattr(again, f.name) is None] == ["frozen", "loss_scale"]
