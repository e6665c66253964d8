"""Sparsity: penalties on groups of weights and on gates, and scores for pruning."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    Number,
    accumulation_dtype,
    as_scalar,
    check_array,
    check_shape,
    flag,
    loss,
    non_negative,
    positive,
    python_int,
)
from lossfns.compression._trees import PyTree, check_structure, leaves

_below_zero = Number("below 0", lambda v: v < 0)
_above_one = Number("above 1 and finite", lambda v: (v > 1) & (v < 1e38))


@loss(static=("axis", "by_size"), weight=non_negative, axis=python_int, by_size=flag)
def group_lasso(params: PyTree, *, weight: float | jax.Array = 1.0, axis: int = -1, by_size: bool = True) -> jax.Array:
    r"""Group lasso, a penalty that drives whole groups of weights to zero.

    $$\lambda \sum_g \sqrt{|g|}\, \lVert w_g \rVert_2$$

    Entries with the same index of `axis` are a group: with the last axis of a kernel [in, out], a unit's weights.

    Args:
        params: Any pytree of floating arrays of at least one axis.
        weight: $\lambda$.
        axis: The axis of the groups.
        by_size: Whether to multiply norms by the square root of the group's size.

    Returns:
        A scalar; 0 for an empty pytree. The gradient of a group of zeros is 0.

    Example:
        Two units: norms 5 and 1, groups of two.

        >>> kernel = jnp.array([[3.0, 1.0], [4.0, 0.0]])
        >>> print(group_lasso({"kernel": kernel}, by_size=False), group_lasso({"kernel": kernel}).round(4))
        6.0 8.4853

    Conventions:
        Yuan and Lin have the square root, which treats groups of any size equally; structured sparsity learning (Wen et
        al.) has none. For an array of one axis the groups are single entries: the L1 penalty.

    References:
        Yuan and Lin 2006, doi:10.1111/j.1467-9868.2005.00532.x. Wen et al. 2016, arXiv:1608.03665.
    """
    arrays, dtype = leaves("params", params)
    total = jnp.zeros((), dtype)
    for x in arrays:
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(f"axis must be an axis of every array, got {axis} for one of shape {x.shape}")
        groups = jnp.moveaxis(x, axis, 0)
        groups = groups.reshape(groups.shape[0], -1) if groups.size else jnp.zeros((1, 1), dtype)
        largest = jax.lax.stop_gradient(jnp.max(jnp.abs(groups), axis=-1, keepdims=True))
        zero = largest == 0
        squares = jnp.sum(jnp.square(groups / jnp.where(zero, 1, largest)), axis=-1, keepdims=True)
        norms = jnp.where(zero, 0, largest * jnp.sqrt(jnp.where(zero, 1, squares)))
        total += jnp.sum(norms) * (groups.shape[-1] ** 0.5 if by_size else 1)
    return as_scalar(weight, dtype) * total


@loss(weight=non_negative, temperature=positive, low=_below_zero, high=_above_one)
def l0_hard_concrete(
    log_alpha: PyTree,
    *,
    weight: float | jax.Array = 1.0,
    temperature: float | jax.Array = 2 / 3,
    low: float | jax.Array = -0.1,
    high: float | jax.Array = 1.1,
) -> jax.Array:
    r"""L0 penalty: the expected number of open gates.

    $$\lambda \sum_i P(z_i \ne 0) = \lambda \sum_i \sigma\left( \log \alpha_i - \beta \log \frac{-\gamma}{\zeta}
    \right)$$

    Args:
        log_alpha: Any pytree of floating arrays, the gates' locations.
        weight: $\lambda$.
        temperature: $\beta$.
        low: $\gamma < 0$, lower end of the stretched gates.
        high: $\zeta > 1$, upper end of the stretched gates.

    Returns:
        A scalar; 0 for an empty pytree.

    Example:
        Four gates, closed with probability 1/2: log alpha = beta log(1/11).

        >>> print(l0_hard_concrete({"gates": jnp.full(4, 2 / 3 * jnp.log(1 / 11))}).round(4))
        2.0

    Conventions:
        Each gate counts once; a gate of n weights should count n: weight its leaf. The authors' code clamps the
        probability to 1e-6 .. 1 - 1e-6, with gradient 0 beyond.

    References:
        Louizos et al. 2017, arXiv:1712.01312, equation 12.
    """
    arrays, dtype = leaves("log_alpha", log_alpha)
    shift = as_scalar(temperature, dtype) * jnp.log(-as_scalar(low, dtype) / as_scalar(high, dtype))
    total = jnp.zeros((), dtype)
    for x in arrays:
        total += jnp.sum(jax.nn.sigmoid(x - shift))
    return as_scalar(weight, dtype) * total


@loss(temperature=positive, low=_below_zero, high=_above_one)
def hard_concrete_gates(
    key: jax.Array | None,
    log_alpha: jax.Array,
    *,
    temperature: float | jax.Array = 2 / 3,
    low: float | jax.Array = -0.1,
    high: float | jax.Array = 1.1,
) -> jax.Array:
    r"""Gates in 0 .. 1 drawn from the hard concrete distribution, with a gradient and exact zeros and ones.

    $$z = \mathrm{clip}(s (\zeta - \gamma) + \gamma, 0, 1), \quad
    s = \sigma\left( \frac{\log u - \log(1 - u) + \log \alpha}{\beta} \right)$$

    Args:
        key: PRNG key for $u$; None for the evaluation gates, $s = \sigma(\log \alpha)$.
        log_alpha: [...], the gates' locations.
        temperature: $\beta$.
        low: $\gamma < 0$.
        high: $\zeta > 1$.

    Returns:
        [...]. A gate at 0 or 1 has gradient 0.

    Example:
        >>> print(hard_concrete_gates(None, jnp.array([-9.0, 0.0, 9.0])))
        [0.  0.5 1. ]

    Conventions:
        Without a key as in the paper and its code; some later code also divides by the temperature.

    References:
        Louizos et al. 2017, arXiv:1712.01312, equations 10, 11 and 13.
    """
    x = check_array("log_alpha", log_alpha)
    x = x.astype(accumulation_dtype(x))
    if key is not None:
        x = (x + jax.random.logistic(key, x.shape, x.dtype)) / as_scalar(temperature, x.dtype)
    gamma, zeta = as_scalar(low, x.dtype), as_scalar(high, x.dtype)
    stretched = jax.nn.sigmoid(x) * (zeta - gamma) + gamma
    return jnp.where(stretched <= 0, 0, jnp.where(stretched >= 1, 1, stretched))


@loss(rate=positive)
def movement_scores(scores: PyTree, params: PyTree, gradients: PyTree, *, rate: float | jax.Array = 1.0) -> PyTree:
    r"""Updated scores of movement pruning: higher for weights that move away from zero.

    $$S' = S - \eta\, w \frac{\partial L}{\partial w}$$

    Args:
        scores: $S$, a pytree of floating arrays, zeros at the start.
        params: $w$, a pytree of the same structure and shapes.
        gradients: $\partial L / \partial w$, a pytree of the same structure and shapes.
        rate: $\eta$.

    Returns:
        The new scores, a pytree of the same structure. Keep the weights with the highest scores.

    Example:
        A weight of 2 that descent increases, and one that it decreases.

        >>> print(movement_scores(jnp.zeros(2), jnp.array([2.0, 2.0]), jnp.array([-1.0, 1.0])))
        [ 2. -2.]

    Conventions:
        This is gradient descent on the scores with a straight-through mask; for another optimiser pass minus the change
        as the gradient. The gradient is taken at the masked weights, so that pruned weights can come back.

    References:
        Sanh et al. 2020, arXiv:2005.07683.
    """
    check_structure("params", params, scores, "scores")
    check_structure("gradients", gradients, scores, "scores")
    (old, a), (weights, b), (grads, c) = (
        leaves("scores", scores),
        leaves("params", params),
        leaves("gradients", gradients),
    )
    dtype = jnp.promote_types(jnp.promote_types(a, b), c)
    new = []
    for s, w, g in zip(old, weights, grads, strict=True):
        check_shape("params", w, s.shape, "of scores")
        check_shape("gradients", g, s.shape, "of scores")
        new.append(s.astype(dtype) - as_scalar(rate, dtype) * w.astype(dtype) * g.astype(dtype))
    return jax.tree.unflatten(jax.tree.structure(scores), new)
