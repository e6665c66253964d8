"""Penalties on parameters: functions of parameter trees that return one scalar, a term of weight one."""

from typing import Any

import jax
import jax.numpy as jnp

from lossfns._contract import accumulation_dtype, check_array, check_shape, flag, hyper, loss, non_negative
from lossfns._numerics import magnitude

PyTree = Any


def _leaves(name: str, params: PyTree) -> list[tuple[str, jax.Array]]:
    """The floating arrays of a tree with their paths."""
    named = [(name + jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    return [(path, check_array(path, leaf)) for path, leaf in named]


def _weighted_total(weight: float | jax.Array, parts: list[jax.Array]) -> jax.Array:
    """Weight times the sum of scalars, 0 for none."""
    dtype = accumulation_dtype(*parts)
    return hyper(weight, dtype) * sum((part.astype(dtype) for part in parts), jnp.zeros((), dtype))


def _sum_of_squares(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x.astype(accumulation_dtype(x))))


@loss(weight=non_negative)
def l1(params: PyTree, *, weight: float | jax.Array = 1.0) -> jax.Array:
    r"""L1 penalty, $\lambda \sum_i |\theta_i|$, with gradient 0 at 0.

    Args:
        params: Any tree of floating arrays.
        weight: $\lambda$.

    Returns:
        A scalar, float32 or wider; 0 for an empty tree.

    Raises:
        TypeError: If a leaf is not a floating array.
        ValueError: If the weight is negative.

    Example:
        >>> float(l1({"w": jnp.array([3.0, -4.0]), "b": jnp.array(1.0)}, weight=0.5))
        4.0

    References:
        Tibshirani 1996, doi:10.1111/j.2517-6161.1996.tb02080.x.
    """
    return _weighted_total(
        weight, [jnp.sum(magnitude(x.astype(accumulation_dtype(x)))) for _, x in _leaves("params", params)]
    )


@loss(static=("half",), weight=non_negative, half=flag)
def l2(params: PyTree, *, weight: float | jax.Array = 1.0, half: bool = False) -> jax.Array:
    r"""Squared L2 penalty, $\lambda \sum_i \theta_i^2$.

    Args:
        params: Any tree of floating arrays.
        weight: $\lambda$.
        half: Whether to multiply by 1/2, so that the gradient is $\lambda \theta$.

    Returns:
        A scalar, float32 or wider; 0 for an empty tree.

    Raises:
        TypeError: If a leaf is not a floating array.
        ValueError: If the weight is negative.

    Example:
        >>> float(l2({"w": jnp.array([3.0, -4.0])}))
        25.0
        >>> float(l2({"w": jnp.array([3.0, -4.0])}, half=True))
        12.5

    Conventions:
        With `half=True` the weight is the `weight_decay` of plain gradient descent, as torch's SGD has it; Keras's
        `L2` and this default have no half. Under Adam neither is AdamW's decoupled decay (Loshchilov and Hutter 2019,
        arXiv:1711.05101).
    """
    total = _weighted_total(weight, [_sum_of_squares(x) for _, x in _leaves("params", params)])
    return total / 2 if half else total


@loss(static=("half",), weight=non_negative, half=flag)
def proximal(params: PyTree, anchor: PyTree, *, weight: float | jax.Array = 1.0, half: bool = False) -> jax.Array:
    r"""Squared distance to anchor parameters, $\lambda \lVert \theta - \theta_0 \rVert^2$.

    The anchor gets a gradient too, which meta-learning needs; stop it outside where the anchor is a constant.

    Args:
        params: $\theta$, any tree of floating arrays.
        anchor: $\theta_0$, a tree of the same structure and shapes.
        weight: $\lambda$.
        half: Whether to multiply by 1/2.

    Returns:
        A scalar, float32 or wider; 0 for an empty tree.

    Raises:
        TypeError: If a leaf is not a floating array.
        ValueError: If the trees differ or the weight is negative.

    Example:
        >>> float(proximal({"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.0, 0.0])}, weight=2.0))
        50.0

    Conventions:
        iMAML writes $\tfrac{\lambda}{2}$ and FedProx $\tfrac{\mu}{2}$: `half=True`.

    References:
        Rajeswaran et al. 2019, arXiv:1909.04630 (iMAML). Li et al. 2018, arXiv:1812.06127 (FedProx).
    """
    ours, theirs = str(jax.tree.structure(params)), str(jax.tree.structure(anchor))
    if ours != theirs:
        raise ValueError(f"anchor must have the structure of params, {ours}, got {theirs}")
    parts = []
    for (path, x), (anchor_path, x0) in zip(_leaves("params", params), _leaves("anchor", anchor), strict=True):
        check_shape(anchor_path, x0, x.shape, f"of {path}")
        dtype = accumulation_dtype(x, x0)
        parts.append(_sum_of_squares(x.astype(dtype) - x0.astype(dtype)))
    total = _weighted_total(weight, parts)
    return total / 2 if half else total
