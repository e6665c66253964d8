"""Penalties on parameter trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossfns import l1, l2, proximal

TREE = {"dense": {"kernel": jnp.array([[3.0, 0.0], [-4.0, 1.0]]), "bias": jnp.array([2.0, -2.0])}, "none": None}


def test_values_by_hand():
    assert float(l1(TREE)) == 12.0
    assert float(l2(TREE)) == 34.0
    assert float(l2(TREE, weight=0.5, half=True)) == 8.5
    moved = jax.tree.map(lambda x: x + 2, TREE)
    assert float(proximal(moved, TREE, weight=0.5)) == 12.0
    assert float(proximal(moved, TREE, weight=0.5, half=True)) == 6.0


def test_gradients_by_hand():
    np.testing.assert_array_equal(jax.grad(l1)(TREE)["dense"]["kernel"], [[1.0, 0.0], [-1.0, 1.0]])
    np.testing.assert_array_equal(jax.grad(l2)(TREE)["dense"]["bias"], [4.0, -4.0])
    by_params, by_anchor = jax.grad(lambda a, b: proximal(a, b, weight=3.0, half=True), argnums=(0, 1))(
        {"w": jnp.array([5.0])}, {"w": jnp.array([1.0])}
    )
    assert (float(by_params["w"][0]), float(by_anchor["w"][0])) == (12.0, -12.0)


def test_an_empty_tree_costs_nothing():
    assert [float(l1({})), float(l2({})), float(proximal({}, {}))] == [0.0, 0.0, 0.0]


def test_half_precision_is_summed_in_float32():
    total = l2([jnp.full(5000, 1.0, jnp.float16), jnp.full(1, 300.0, jnp.bfloat16)])
    assert total.dtype == jnp.float32
    assert float(total) == 5000.0 + 90000.0


def test_errors_name_the_leaf():
    with pytest.raises(TypeError, match=r"params\['step'\] must have a floating dtype, got int32"):
        l2({"step": jnp.array(3)})
    with pytest.raises(ValueError, match=r"anchor\['w'\] must have the shape \(2,\) of params\['w'\], got \(3,\)"):
        proximal({"w": jnp.zeros(2)}, {"w": jnp.zeros(3)})
    with pytest.raises(ValueError, match="anchor must have the structure of params"):
        proximal({"w": jnp.zeros(2)}, {"v": jnp.zeros(2)})
    with pytest.raises(ValueError, match="weight must be at least 0 and finite, got -1"):
        l1({}, weight=-1)
    with pytest.raises(TypeError, match="half must be True or False"):
        l2({}, half=0.5)
