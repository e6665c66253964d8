"""A multilayer perceptron."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class MLP(nn.Module):
    """Dense layers with ReLU between them and zero biases at the start.

    Attributes:
        sizes: Units of each layer, the output last.
        kernel_init: How the kernels start.
        cosine: Whether the outputs are cosines between the last features and the columns of the last kernel, for
            losses with a margin.
    """

    sizes: Sequence[int]
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    cosine: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., d] to [..., sizes[-1]]."""
        for number, size in enumerate(self.sizes):
            x = jax.nn.relu(x) if number else x
            name = f"layer_{number}"
            if self.cosine and number == len(self.sizes) - 1:
                kernel: Any = self.param(name, self.kernel_init, (x.shape[-1], size))
                return unit(x, -1) @ unit(kernel, 0)
            x = nn.Dense(size, kernel_init=self.kernel_init, name=name)(x)
        return x


def unit(x: jax.Array, axis: int) -> jax.Array:
    """The vectors along an axis with length one; 0 stays 0, with a finite gradient.

    >>> unit(jnp.array([3.0, 4.0]), 0).round(2).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    square = jnp.sum(jnp.square(x), axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))
