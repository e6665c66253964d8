"""Programs that are kept as bytes, for platforms that the host need not have, and loaded again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import lossfns

PLATFORMS = ("cpu", "cuda", "tpu")
LOSSES = {
    "linear_cross_entropy": lambda a, b: lossfns.linear_cross_entropy(a, b, jnp.arange(len(a))),
    "clip": lossfns.clip,
    "nt_xent": lossfns.nt_xent,
}


def exported(function, *arrays, platforms=PLATFORMS):
    # The layout asked for on CPU is a call that XLA knows by name; JAX wants to be told that it may be kept.
    known = [export.DisabledSafetyCheck.custom_call("LayoutConstraint")] if "cpu" in platforms else []
    return export.export(jax.jit(function), platforms=platforms, disabled_checks=known)(*arrays)


def draw():
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=(6, 4)), jnp.float32) for _ in range(2))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient_are_exported_for_all_platforms(name):
    run = jax.value_and_grad(lambda a, b: LOSSES[name](a, b).mean(), argnums=(0, 1))
    program = exported(run, *draw())
    assert program.platforms == PLATFORMS
    exported(run, *draw(), platforms=("cuda", "tpu"))
    near = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(near, program.call(*draw()), jax.jit(run)(*draw()))


def test_a_loss_is_loaded_from_bytes():
    program = exported(lambda a, b: LOSSES["clip"](a, b).mean(), *draw())
    loaded = export.deserialize(program.serialize())
    np.testing.assert_array_equal(loaded.call(*draw()), program.call(*draw()))
