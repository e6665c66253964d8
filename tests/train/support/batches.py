"""One batch with uneven masks, an objective for it, and the backends that must give the same numbers."""

import jax.numpy as jnp
import numpy as np

from train import Term

RNG = np.random.default_rng(0)
SIZE = 64
BATCH = {
    "x": RNG.normal(size=(SIZE, 4)).astype(np.float32),
    "y": RNG.normal(size=(SIZE, 3)).astype(np.float32),
    # Uneven: the last half of the rows, so whole devices, have nothing in "row".
    "row": (RNG.random(SIZE) < 0.6) & (np.arange(SIZE) < 40),
    "cell": (RNG.random((SIZE, 3)) * (RNG.random((SIZE, 3)) < np.linspace(0.05, 1, SIZE)[:, None])).astype(np.float32),
}
PARAMS = {"w": RNG.normal(size=(4, 3)).astype(np.float32)}
BACKENDS = {
    "jit": {"backend": "jit"},
    "pmap": {"backend": "pmap"},
    "shard_map": {"backend": "shard_map", "check_vma": True},
    "shard_map unchecked": {"backend": "shard_map", "check_vma": False},
}


def ordinary(params, batch, ctx):
    return {"square": Term(jnp.sum((jnp.tanh(batch["x"] @ params["w"]) - batch["y"]) ** 2, -1), batch["row"])}
