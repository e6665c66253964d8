"""Checkpoints of a small state, and whether two states are the same bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.train.support.resumable import fresh_state
from train.records.checkpoint import Checkpointer


def raw(leaf):
    data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return str(leaf.dtype), np.shape(leaf), np.asarray(data).tobytes()


def assert_identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert raw(x) == raw(y), jax.tree_util.keystr(path)


def saved(tmp_path, steps=(1, 2, 3)):
    """Checkpoints in which `params["w"]` is the step."""
    with Checkpointer(tmp_path, every=1) as checkpointer:
        for step in steps:
            checkpointer.save(step, at(step))
    return tmp_path


def at(step):
    state = fresh_state()
    return state.replace(step=jnp.int32(step), params={**state.params, "w": jnp.full(3, float(step))})
