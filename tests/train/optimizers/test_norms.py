"""Norms of entries that float32 cannot square."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.support.optimizer_oracles import PLAIN, RATE, run
from train import Term, build_train_step, create_state, skip_nonfinite
from train.optimizers.norms import global_norm, power_of_two

SIZES = [1e-35, 1e-25, 1e-19, 1.0, 1e19, 1e25, 1e37]


@pytest.mark.parametrize("size", SIZES)
def test_a_norm_is_right_wherever_it_is_a_number(size):
    entries = np.random.default_rng(0).normal(size=(3, 7))
    tree = {"a": jnp.asarray(entries[:2] * size, jnp.float32), "b": [jnp.asarray(entries[2] * size, jnp.float32)]}
    right = np.linalg.norm(np.concatenate([np.ravel(x) for x in map(np.float64, jax.tree.leaves(tree))]))
    assert float(jax.jit(global_norm)(tree)) == pytest.approx(right, rel=1e-6, abs=0)
    scale, largest = float(power_of_two(tree)), np.abs(np.float32(entries * size)).max()
    assert np.log2(scale) == round(np.log2(scale))
    assert scale <= largest < 2 * scale or not 1e-36 < size < 1e37


def test_what_is_not_finite_stays_so_and_nothing_has_the_norm_0():
    assert float(global_norm({"a": jnp.zeros(3), "b": jnp.zeros((0, 2))})) == 0
    assert float(global_norm(jnp.array([jnp.inf, 1.0]))) == np.inf
    assert np.isnan(global_norm(jnp.array([jnp.nan, 1.0])))
    assert np.isnan(global_norm(jnp.array([jnp.nan, jnp.inf])))
    assert float(global_norm(jnp.array([300.0, 400.0], jnp.float16))) == 500


@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_clipped_to_the_norm_whatever_theirs_is(size):
    grad = {"a": np.array([3.0 * size]), "b": np.array([4.0 * size])}
    after = run(replace(PLAIN, clip_norm=0.5), {"a": np.zeros(1), "b": np.zeros(1)}, [grad])[0]
    factor = min(1.0, 0.5 / (5 * size))
    np.testing.assert_allclose(np.float64(after["b"]), -RATE * 4.0 * size * factor, rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [1e-25, 1e20])
def test_a_step_reports_the_norm_and_takes_a_large_gradient_for_a_number(size):
    def objective(params, batch, ctx):
        return {"product": Term(params @ batch, weights=1)}

    step = jax.jit(skip_nonfinite(build_train_step(objective, optax.sgd(1.0), loss_weights={"product": 1.0})))
    batch = jnp.array([[3.0], [4.0]]) * size
    state, metrics = step(create_state(jnp.zeros(2), optax.sgd(1.0), key=0), batch)
    assert float(metrics["grad_norm"][0]) == pytest.approx(5 * size, rel=1e-6, abs=0)
    assert float(metrics["skipped"][0]) == 0
    np.testing.assert_allclose(state.params, -batch[:, 0], rtol=1e-6)
