"""Averages of gradients and of their squares in the conventions of the papers, which Optax lacks."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from train.trees import Params, Tree

# Sums of the squares of larger entries over a large parameter overflow float32.
_LARGEST = 1e15


class Moments(NamedTuple):
    """Number of updates, averages of gradients and of squares (or of the curvature), and further state."""

    steps: jax.Array
    mu: Any
    nu: Any
    kept: Any = ()


def squarable(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Clips entries of gradients to 1e15 for an optimizer that squares them.

    Otherwise an average of squares would become infinite, and its parameter would silently never change again.

    >>> optimizer = squarable(optax.scale_by_adam())
    >>> print(optimizer.update(jnp.array([1e20, 1.0]), optimizer.init(jnp.zeros(2)))[0].round(3))
    [1. 1.]
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def update(grads: Tree, state: Any, params: Params = None, **extra: Any) -> tuple[Any, Any]:
        grads = jax.tree.map(lambda g: jnp.clip(g, -_LARGEST, _LARGEST), grads)
        updates, state = optimizer.update(grads, state, params, **extra)
        return updates, state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def scale_by_adan(b1: float, b2: float, b3: float, eps: float) -> optax.GradientTransformation:
    """Adan: `(m^ + b2 d^) / (sqrt(n^) + eps)`; m, d, n average g, c = g - g_before, (g + b2 c)^2 with b1, b2, b3.

    The first difference c is 0. The paper writes 1 - beta for the decays, so its 1 - beta_2 is b2 here, as in its
    authors' code; `optax.scale_by_adan` multiplies the differences by 1 - b2 instead.

    References:
        Xie et al. 2022, arXiv:2208.06677.

    >>> optimizer = scale_by_adan(0.5, 0.5, 0.0, 1e-8)
    >>> state = optimizer.init(jnp.zeros(()))
    >>> for g in (1.0, 3.0):  # m^ = (1/4 + 3/2) / (3/4), d^ = (2/2) / (3/4), n = (3 + 2/2)^2
    ...     update, state = optimizer.update(jnp.array(g), state)
    >>> print(update)
    0.75
    """

    def init(params: Params) -> Moments:
        zeros = optax.tree.zeros_like(params)
        return Moments(jnp.zeros((), jnp.int32), zeros, zeros, {"difference": zeros, "before": zeros})

    def update(grads: Tree, state: Moments, params: Params = None) -> tuple[Any, Moments]:
        count = optax.safe_increment(state.steps)
        change = jax.tree.map(
            lambda g, before: jnp.where(state.steps == 0, jnp.zeros_like(g), g - before), grads, state.kept["before"]
        )
        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        difference = optax.tree.update_moment(change, state.kept["difference"], b2, 1)
        ahead = jax.tree.map(lambda g, d: g + b2 * d, grads, change)
        nu = optax.tree.update_moment_per_elem_norm(ahead, state.nu, b3, 2)
        updates = jax.tree.map(
            lambda m, d, n: (m + b2 * d) / (jnp.sqrt(n) + eps),
            optax.tree.bias_correction(mu, b1, count),
            optax.tree.bias_correction(difference, b2, count),
            optax.tree.bias_correction(nu, b3, count),
        )
        return updates, Moments(count, mu, nu, {"difference": difference, "before": grads})

    return optax.GradientTransformation(init, update)


def scale_by_amsgrad(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam with the largest average of squares so far, compared before bias correction as in the paper.

    `optax.scale_by_amsgrad` compares corrected averages, so that one large first gradient keeps all later steps small.
    The bias is corrected afterwards, which the paper omits for brevity.

    References:
        Reddi et al. 2018, arXiv:1904.09237.

    >>> optimizer = scale_by_amsgrad(0.0, 0.5, 1e-8)
    >>> state = optimizer.init(jnp.zeros(()))
    >>> for g in (2.0, 1.0):  # v = 2, then 3/2: 1 / sqrt(2 / (3/4))
    ...     update, state = optimizer.update(jnp.array(g), state)
    >>> print(update.round(4))
    0.6124
    """

    def init(params: Params) -> Moments:
        zeros = optax.tree.zeros_like(params)
        return Moments(jnp.zeros((), jnp.int32), zeros, zeros, {"largest": zeros})

    def update(grads: Tree, state: Moments, params: Params = None) -> tuple[Any, Moments]:
        count = optax.safe_increment(state.steps)
        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(grads, state.nu, b2, 2)
        largest = jax.tree.map(jnp.maximum, state.kept["largest"], nu)
        updates = jax.tree.map(
            lambda m, v: m / (jnp.sqrt(v) + eps),
            optax.tree.bias_correction(mu, b1, count),
            optax.tree.bias_correction(largest, b2, count),
        )
        return updates, Moments(count, mu, nu, {"largest": largest})

    return optax.GradientTransformation(init, update)


def scale_by_adagrad(eps: float) -> optax.GradientTransformation:
    """Adagrad: `g / (sqrt(s) + eps)` with s the sum of squares, which starts at 0; eps is the paper's delta.

    `optax.scale_by_rss` adds eps under the root, where 1e-10 halves the steps for gradients of 6e-6.

    References:
        Duchi et al. 2011, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, JMLR 12.

    >>> optimizer = scale_by_adagrad(1e-10)
    >>> print(optimizer.update(jnp.array([3e-7, 0.0]), optimizer.init(jnp.zeros(2)))[0].round(3))
    [1. 0.]
    """

    def update(grads: Tree, state: Any, params: Params = None) -> tuple[Any, Any]:
        total = jax.tree.map(lambda s, g: s + jnp.square(g), state, grads)
        return jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + eps), grads, total), total

    return optax.GradientTransformation(optax.tree.zeros_like, update)


def scale_by_radam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Rectified Adam, with the length of its average of squares in full float32 precision.

    References:
        Liu et al. 2020, arXiv:1908.03265. The paper rectifies from a length of 4 on, its authors' code from 5 on, as
        torch and this does, since the length is an approximation.

    >>> optimizer = scale_by_radam(0.9, 0.999, 1e-8)
    >>> print(optimizer.update(jnp.array(8.0), optimizer.init(jnp.zeros(())))[0].round(3))  # no rectification yet
    8.0
    """

    def init(params: Params) -> Moments:
        zeros = optax.tree.zeros_like(params)
        return Moments(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(grads: Tree, state: Moments, params: Params = None) -> tuple[Any, Moments]:
        count = optax.safe_increment(state.steps)
        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(grads, state.nu, b2, 2)
        length, longest = average_length(count, b2), 2 / (1 - b2) - 1
        known = length >= 5
        top = (jnp.where(known, length, 5) - 4) * (length - 2) * longest
        rectified = jnp.sqrt(jnp.maximum(top, 0) / ((longest - 4) * (longest - 2) * length)) if longest > 5 else 1.0

        def step(m: jax.Array, v: jax.Array) -> jax.Array:
            return jnp.where(known, (rectified * m / (jnp.sqrt(v) + eps)).astype(m.dtype), m)

        updates = jax.tree.map(
            step, optax.tree.bias_correction(mu, b1, count), optax.tree.bias_correction(nu, b2, count)
        )
        return updates, Moments(count, mu, nu)

    return optax.GradientTransformation(init, update)


def average_length(count: jax.Array, decay: float) -> jax.Array:
    r"""RAdam's length of an average after t >= 1 updates with decay $\beta$.

    $$\rho_t = \rho - 2 t \beta^t / (1 - \beta^t), \quad \rho = 2 / (1 - \beta) - 1$$

    A short length is the difference of two numbers near $\rho$. To avoid it, with $a = -\log \beta$ and Langevin's
    function $L(x) = \coth x - 1 / x$ it is $t + L(a / 2) - t L(t a / 2)$.

    >>> [round(float(average_length(jnp.array(t), 0.999)), 4) for t in (1, 6)]
    [1.0, 5.9942]
    """
    t = count.astype(float)
    if decay == 0:
        return jnp.ones_like(t)
    rate = -math.log(decay)
    x = t * rate / 2

    def langevin(x: Any) -> Any:
        series = (1 / 3, -1 / 45, 2 / 945, -1 / 4725, 2 / 93555, -1382 / 638512875, 4 / 18243225)
        return x * sum(factor * x ** (2 * power) for power, factor in enumerate(series))

    longest = 2 / (1 - decay) - 1
    start = langevin(rate / 2) if rate < 1 else 1 / math.tanh(rate / 2) - 2 / rate
    short = t + start - t * langevin(jnp.minimum(x, 0.5))
    return jnp.where(x < 0.5, short, longest - 2 * t / jnp.expm1(2 * jnp.maximum(x, 0.5)))


def scale_by_sophia(
    b1: float, b2: float, eps: float, *, gamma: float, every: int, curvature: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Sophia: `clip(m / max(gamma h, eps), 1)`, with h the average of estimates of the Hessian's diagonal.

    As in the paper, the bias of m is not corrected, and a new estimate is used in its own step; `optax.contrib.sophia`
    corrects the bias and uses it from the next step on.

    Args:
        b1: Decay of the average m of gradients.
        b2: Decay of h.
        eps: The smallest denominator.
        gamma: Factor of h.
        every: Steps from one estimate to the next.
        curvature: A transformation that returns an estimate instead of the gradient.

    Returns:
        The transformation; its update needs the arguments of `curvature`.

    References:
        Liu et al. 2024, arXiv:2305.14342, algorithm 3.

    >>> four = optax.stateless(lambda grads, params: 4.0)
    >>> optimizer = scale_by_sophia(0.5, 0.5, 1e-12, gamma=1.0, every=10, curvature=four)
    >>> print(optimizer.update(jnp.array(2.0), optimizer.init(jnp.zeros(())))[0])  # 2/2 over 4/2
    0.5
    """
    curvature = optax.with_extra_args_support(curvature)

    def init(params: Params) -> Moments:
        zeros = optax.tree.zeros_like(params)
        return Moments(jnp.zeros((), jnp.int32), zeros, zeros, {"curvature": curvature.init(params)})

    def update(grads: Tree, state: Moments, params: Params = None, **extra: Any) -> tuple[Any, Moments]:
        def estimate(nu: Any, inner: Any) -> tuple[Any, Any]:
            found, inner = curvature.update(grads, inner, params, **extra)
            return optax.tree.update_moment(found, nu, b2, 1), inner

        def wait(nu: Any, inner: Any) -> tuple[Any, Any]:
            return nu, inner

        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        nu, inner = jax.lax.cond(state.steps % every == 0, estimate, wait, state.nu, state.kept["curvature"])
        updates = jax.tree.map(lambda m, h: jnp.clip(m / jnp.maximum(gamma * h, eps), -1, 1), mu, nu)
        return updates, Moments(optax.safe_increment(state.steps), mu, nu, {"curvature": inner})

    return optax.GradientTransformationExtraArgs(init, update)
