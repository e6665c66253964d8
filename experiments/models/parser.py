"""A small encoder of words with a scorer of arcs, and a linear probe of its states.

A small version of Dozat and Manning 2017, arXiv:1611.01734, with dilated convolutions instead of a recurrent network.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.treebank import BUCKETS

REACH = 8
"""Number of distances to a head with their own score; farther ones share the last."""


class Parser(nn.Module):
    """Words to states, and states to scores of arcs and tags."""

    width: int
    depth: int
    tags: int

    @nn.compact
    def __call__(self, parts: jax.Array, words: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Maps parts [S, N, P] of present words [S, N] to states [S, N, D], arcs [S, N, N + 1] and tags [S, N, T].

        States have length sqrt(D), so that no loss on their distances can be lowered by shrinking them.
        """
        present = words[..., None]
        x = nn.Embed(BUCKETS, self.width, name="parts")(parts).sum(-2)
        x = jnp.where(present, x + jnp.asarray(waves(parts.shape[-2], self.width), x.dtype)[None], 0)
        for layer in range(self.depth):
            y = _near(nn.LayerNorm(name=f"norm_{layer}")(x) * present, 2**layer)
            x = x + nn.Dense(self.width, name=f"out_{layer}")(nn.gelu(nn.Dense(self.width, name=f"near_{layer}")(y)))
        states = nn.LayerNorm(use_scale=False, use_bias=False)(x)
        dependent = nn.gelu(nn.Dense(self.width, name="dependent")(states))
        root = self.param("root", nn.initializers.normal(1.0), (self.width,))
        with_root = jnp.concatenate([jnp.broadcast_to(root, (*states.shape[:-2], 1, self.width)), states], -2)
        head = nn.gelu(nn.Dense(self.width, name="head")(with_root))
        arcs = nn.Dense(self.width, name="arc")(dependent) @ jnp.swapaxes(head, -1, -2) / self.width**0.5
        arcs = arcs + nn.Dense(1, name="prior")(head)[..., 0][..., None, :] + self._of_distances(parts.shape[-2])[None]
        return states, arcs, nn.Dense(self.tags, name="tag")(states)

    def _of_distances(self, length: int) -> jax.Array:
        """Scores [N, N + 1] of the distance to the head; the root has no distance."""
        bias = self.param("distances", nn.initializers.zeros, (2 * REACH + 2,))
        distance = jnp.arange(1, length + 1)[None, :] - jnp.arange(1, length + 1)[:, None]
        of_words = jnp.clip(distance, -REACH, REACH) + REACH
        return bias[jnp.pad(of_words, ((0, 0), (1, 0)), constant_values=2 * REACH + 1)]


def waves(length: int, width: int) -> np.ndarray:
    """Positions in the sentence as sines and cosines [N, D]; without them two states would not determine a distance.

    Vaswani et al. 2017, arXiv:1706.03762, with shorter waves and the initial scale of a word's parts.

    >>> waves(2, 4).round(2).tolist()
    [[0.0, 0.0, 0.35, 0.35], [0.29, 0.03, 0.19, 0.35]]
    """
    angles = np.arange(length)[:, None] * 100.0 ** (-2 * np.arange(width // 2) / width)
    return 0.35 * np.concatenate([np.sin(angles), np.cos(angles)], -1)


def _near(x: jax.Array, step: int) -> jax.Array:
    """Each state [S, N, D] with the states `step` before and after, [S, N, 3 D]: a convolution as a product.

    A convolution within `lax.scan` takes several times as long on a CPU.
    """
    length = x.shape[-2]
    wide = jnp.pad(x, ((0, 0), (step, step), (0, 0)))
    return jnp.concatenate([wide[:, i * step : i * step + length] for i in range(3)], -1)


def squared_distances(states: jax.Array) -> jax.Array:
    """Squared Euclidean distances [..., N, N] of states [..., N, D].

    >>> print(squared_distances(jnp.array([[0.0], [1.0], [3.0]])))
    [[0. 1. 9.]
     [1. 0. 4.]
     [9. 4. 0.]]
    """
    return jnp.sum(jnp.square(states[..., :, None, :] - states[..., None, :, :]), -1)
