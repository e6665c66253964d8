"""A multilayer perceptron."""

from collections.abc import Sequence

import flax.linen as nn
import jax


class MLP(nn.Module):
    """Dense layers with ReLU between them and zero biases at the start.

    Attributes:
        sizes: Units of each layer, the output last.
        kernel_init: How the kernels start.
    """

    sizes: Sequence[int]
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., d] to [..., sizes[-1]]."""
        for number, size in enumerate(self.sizes):
            x = nn.Dense(size, kernel_init=self.kernel_init, name=f"layer_{number}")(jax.nn.relu(x) if number else x)
        return x
