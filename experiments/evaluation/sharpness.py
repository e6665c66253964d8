"""Sharpness of a minimum: the largest eigenvalue of the Hessian, which is never formed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

ITERATIONS = 40
"""Number of products with the Hessian."""


def sharpness(loss: Callable[[Any], jax.Array], params: Any, iterations: int = ITERATIONS) -> jax.Array:
    """The Hessian's eigenvalue of largest magnitude, by power iteration on products with it (Pearlmutter 1994).

    Args:
        loss: Function from parameters to a scalar.
        params: The parameters at which to differentiate.
        iterations: Number of products; each reduces the error by the squared ratio of the second eigenvalue to the
            first.

    Returns:
        The Rayleigh quotient of the last direction, a scalar.

    >>> print(f"{sharpness(lambda w: 0.5 * (3 * w['a'] ** 2 + w['b'] ** 2), {'a': 1.0, 'b': 2.0}):.4f}")
    3.0000
    """
    flat, tree_of = ravel_pytree(params)
    gradient = jax.grad(lambda vector: loss(tree_of(vector)))

    def multiply(direction: jax.Array, _: Any) -> tuple[jax.Array, jax.Array]:
        product = jax.jvp(gradient, (flat,), (direction,))[1]
        norm = jnp.linalg.norm(product)
        return product / jnp.where(norm == 0, 1, norm), jnp.vdot(direction, product)

    start = jax.random.normal(jax.random.key(0), flat.shape, flat.dtype)
    return jax.lax.scan(multiply, start / jnp.linalg.norm(start), None, length=iterations)[1][-1]


def first_at(level: float, losses: Sequence[float], values: Sequence[float]) -> float:
    """The value at which a falling loss first reaches a level, interpolated linearly; else the last value.

    >>> first_at(1.0, [3.0, 2.0, 0.0], [10.0, 20.0, 40.0]), first_at(1.0, [3.0, 2.0], [10.0, 20.0])
    (30.0, 20.0)
    """
    below = np.flatnonzero(np.asarray(losses) <= level)
    if not len(below) or below[0] == 0:
        return float(values[below[0] if len(below) else -1])
    after = below[0]
    part = (losses[after - 1] - level) / (losses[after - 1] - losses[after])
    return float(values[after - 1] + part * (values[after] - values[after - 1]))


def rescaled(params: Any, factor: float, before: str = "layer_0", after: str = "layer_1") -> Any:
    """Rescales parameters without changing the function: one layer times a factor, the next kernel divided by it.

    ReLU is positively homogeneous (Dinh et al. 2017, arXiv:1703.04933).

    >>> layer = {"kernel": np.ones((1, 1)), "bias": np.ones(1)}
    >>> moved = rescaled({"layer_0": layer, "layer_1": layer}, 2.0)
    >>> [moved[name][part].item() for name in moved for part in ("kernel", "bias")]
    [2.0, 2.0, 0.5, 1.0]
    """
    return params | {
        before: {name: leaf * factor for name, leaf in params[before].items()},
        after: params[after] | {"kernel": params[after]["kernel"] / factor},
    }
