"""A multilayer perceptron, and the evaluation of many of them at once."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class MLP(nn.Module):
    """Dense layers with ReLU between them; biases start at zero.

    Attributes:
        sizes: Units of each layer, including the output.
        kernel_init: Initialiser of the kernels.
        cosine: Whether outputs are cosines between the last features and the columns of the last kernel, as losses with
            a margin expect.
    """

    sizes: Sequence[int]
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    cosine: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, drop: Callable[[jax.Array], jax.Array] | None = None) -> jax.Array:
        """Maps [..., d] to [..., sizes[-1]]; `drop` is applied to the hidden units, for dropout."""
        for number, size in enumerate(self.sizes):
            x = jax.nn.relu(x) if number else x
            x = drop(x) if number and drop is not None else x
            name = f"layer_{number}"
            if self.cosine and number == len(self.sizes) - 1:
                kernel: Any = self.param(name, self.kernel_init, (x.shape[-1], size))
                return unit(x, -1) @ unit(kernel, 0)
            x = nn.Dense(size, kernel_init=self.kernel_init, name=name)(x)
        return x


def init_of(model: MLP, inputs: int) -> Callable[[jax.Array], Any]:
    """A function from a key to initial parameters."""
    return jax.jit(lambda key: model.init(key, jnp.zeros((1, inputs)))["params"])


def outputs_of(model: MLP, params: Any, x: Any) -> jax.Array:
    """Outputs [N, K], or [N] of a model with one."""
    outputs: Any = model.apply({"params": params}, x)
    return outputs[:, 0] if outputs.shape[-1] == 1 else outputs


def mean_loss(model: MLP, loss: Callable[..., jax.Array], params: Any, pool: Mapping[str, Any], rows: Any) -> jax.Array:
    """Mean of `loss(outputs, labels)` over the rows of a pool {"x" [N, D], "y" [N]}."""
    return jnp.mean(loss(outputs_of(model, params, pool["x"][rows]), pool["y"][rows]))


def errors(model: MLP, params: Any, pool: Mapping[str, Any], rows: Any) -> np.ndarray:
    """Error rate [R] of R networks with parameters [R, ...] on the rows of a pool {"x", "y"}.

    One output is the log-odds of class 1.
    """
    return np.asarray(_errors(model, params, pool["x"][rows], pool["y"][rows]))


@functools.partial(jax.jit, static_argnums=0)
def _errors(model: MLP, params: Any, x: Any, y: Any) -> jax.Array:
    outputs = outputs_of_all(model, params, x)
    said = outputs > 0 if outputs.ndim == 2 else outputs.argmax(-1)
    return jnp.mean(said != y[None], -1)


@functools.partial(jax.jit, static_argnums=0)
def outputs_of_all(model: MLP, params: Any, x: Any) -> jax.Array:
    """Outputs [R, N, K], or [R, N] of a model with one, of networks with parameters [R, ...]."""
    return jax.vmap(lambda one: outputs_of(model, one, x))(params)


def unit(x: jax.Array, axis: int) -> jax.Array:
    """Normalises the vectors along an axis; 0 stays 0, with a finite gradient.

    >>> print(unit(jnp.array([2.0, 0.0]), 0))
    [1. 0.]
    """
    square = jnp.sum(jnp.square(x), axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))
