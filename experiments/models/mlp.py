"""A multilayer perceptron."""

from collections.abc import Sequence

import flax.linen as nn
import jax


class MLP(nn.Module):
    """Dense layers with ReLU between them; biases start at zero.

    Attributes:
        sizes: Units of each layer, including the output.
        kernel_init: Initialiser of the kernels.
    """

    sizes: Sequence[int]
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., d] to [..., sizes[-1]]."""
        for number, size in enumerate(self.sizes):
            x = nn.Dense(size, kernel_init=self.kernel_init, name=f"layer_{number}")(jax.nn.relu(x) if number else x)
        return x
