"""Temporary memory of the losses over all pairs, without inputs and gradients, as the compiler reports it."""

import jax
import jax.numpy as jnp
import pytest

from lossfns import clip, info_nce, moco, nt_xent, siglip, supcon


def pairs(count):
    return (jax.ShapeDtypeStruct((count, 128), jnp.float32),) * 2


def classes(count):
    return pairs(count)[0], jax.ShapeDtypeStruct((count,), jnp.int32)


# Loss, arrays, MiB for value and gradient at most; in brackets what its scores alone would need.
LIMITS = {
    "nt_xent, 4096 pairs [256]": (nt_xent, pairs(4096), 30),
    "nt_xent, 8192 pairs [1024]": (nt_xent, pairs(8192), 40),
    "clip, 8192 pairs [256]": (clip, pairs(8192), 45),
    "siglip, 8192 pairs [256]": (siglip, pairs(8192), 80),
    "info_nce, 8192 pairs [256]": (info_nce, pairs(8192), 25),
    "supcon, 8192 examples [256]": (supcon, classes(8192), 45),
    "moco, 512 queries, 65536 places [128]": (moco, (*pairs(512), pairs(65536)[0]), 25),
}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="blocks are larger where caches are not what limits them")
@pytest.mark.parametrize("name", LIMITS)
def test_no_table_of_scores_is_ever_held(name):
    loss, arrays, limit = LIMITS[name]
    floats = tuple(i for i, x in enumerate(arrays) if x.dtype == jnp.float32)
    run = jax.jit(jax.value_and_grad(lambda *arrays: loss(*arrays).mean(), argnums=floats))
    used = run.lower(*arrays).compile().memory_analysis().temp_size_in_bytes / 2**20
    assert used <= limit, f"{used:.1f} MiB"


def test_a_batch_of_one_block_compiles_without_an_alarm(capfd):
    views = jnp.sin(jnp.arange(512 * 64.0)).reshape(512, 64)
    jax.block_until_ready(jax.grad(lambda x: nt_xent(x, views).mean())(views + 1))
    assert capfd.readouterr().err == ""
