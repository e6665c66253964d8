"""Bi-tempered logistic loss, with its normaliser found by iteration and differentiated implicitly."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_labels,
    keep_rows,
    loss,
    nan_where_invalid,
    positive,
    probability,
    zero_masked,
)
from lossfns._numerics import at_label, row_shift

_STEPS = 30


@loss(t1=probability, t2=positive)
def bi_tempered(
    logits: jax.Array,
    labels: jax.Array,
    *,
    t1: float | jax.Array = 0.8,
    t2: float | jax.Array = 1.2,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Bi-tempered logistic loss: bounded logarithm of a heavy-tailed softmax.

    $$-\log_{t_1} p_y - \frac{1 - \sum_k p_k^{2 - t_1}}{2 - t_1}, \quad p_k = \exp_{t_2}(x_k - \lambda)$$

    with $\log_t u = (u^{1-t} - 1) / (1 - t)$, $\exp_t u = [1 + (1 - t) u]_+^{1/(1-t)}$, and $\lambda$ such that p sums
    to one. It is at most $1 / (1 - t_1)$, and outliers have vanishing gradients for $t_2 > 1$.

    Args:
        logits: [..., V], activations; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1.
        t1: $t_1$ in 0 .. 1; below 1 the loss is bounded.
        t2: $t_2$, positive; above 1 the probabilities have heavy tails, below 1 finite support.
        where: [...], boolean; False excludes the row.

    Returns:
        [...]. With $t_1 = t_2 = 1$ it is the cross-entropy in nats.

    Example:
        At t1 = 0 and equal odds the loss is (1 - 1/2) - (1 - 1/4 - 1/4) / 2, for any t2.

        >>> print(bi_tempered(jnp.zeros((1, 2)), jnp.array([0]), t1=0.0))
        [0.25]

    Conventions:
        The authors' code runs 5 fixed-point iterations for $\lambda$, too few for many classes; here Newton's method
        runs until convergence, in a few steps. Their `label_smoothing` is not in the paper and omitted.

    References:
        Amid et al. 2019, arXiv:1906.03361.
    """
    labels, in_range, where = check_labels(logits, labels, where)
    dtype = accumulation_dtype(logits)
    first, second = as_scalar(t1, dtype), as_scalar(t2, dtype)
    x = keep_rows(where, logits).astype(dtype)
    top, shift = row_shift(x)
    empty = top == -jnp.inf
    # Classes at +inf share all of the probability.
    x = jnp.where(top == jnp.inf, jnp.where(x == jnp.inf, 0, -jnp.inf), jnp.where(empty, 0, x - shift))
    log_p = _log_tempered_exp(x - tempered_normalizer(x, second)[..., None], second)
    label = jnp.sum(jnp.where(at_label(labels, x.shape[-1]), log_p, 0), axis=-1)
    out = label == -jnp.inf
    cost = jnp.where(out, 1 / jnp.where(out, 1 - first, 1), -_tempered_log(jnp.where(out, 0, label), first))
    values = cost - (1 - jnp.sum(_power(log_p, 2 - first), axis=-1)) / (2 - first)
    return zero_masked(where, nan_where_invalid(in_range & ~empty[..., 0], values))


@jax.custom_jvp
def tempered_normalizer(x: jax.Array, t: jax.Array) -> jax.Array:
    """The lambda [...] for which exp_t(x - lambda) sums to one over the last axis.

    Newton's method on log_t of the sum Z: a norm of shifted logits, convex and decreasing in lambda, and linear if all
    logits are equal, so steps increase from the row's maximum and never overshoot. The derivative is the implicit
    function's and differentiable again.
    """
    top = jnp.max(x, axis=-1)

    def unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        count, before, now = state
        moved = now - before > 2 * jnp.finfo(x.dtype).eps * (1 + now - top)
        return (count < _STEPS) & jnp.any(moved)

    def improve(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        count, _, now = state
        log_p = _log_tempered_exp(x - now[..., None], t)
        log_z = jnp.log(jnp.sum(_power(log_p, 1.0), axis=-1))
        step = _tempered_log(log_z, t) * jnp.exp(t * log_z) / jnp.sum(_power(log_p, t), axis=-1)
        return count + 1, now, now + jnp.maximum(step, 0)

    return jax.lax.while_loop(unfinished, improve, (jnp.int32(0), top - 1, top))[2]


@functools.partial(tempered_normalizer.defjvp, symbolic_zeros=True)
def _tempered_normalizer_jvp(primals: Any, tangents: Any) -> Any:
    x, t = primals
    dx, dt = tangents
    normalizer = tempered_normalizer(x, t)
    excess = x - normalizer[..., None]
    escort = _power(_log_tempered_exp(excess, t), t)
    change = jnp.zeros_like(normalizer)
    if not isinstance(dx, SymbolicZero):
        change += jnp.sum(escort * dx, axis=-1)
    if not isinstance(dt, SymbolicZero):
        change += jax.jvp(lambda t: jnp.sum(_power(_log_tempered_exp(excess, t), 1.0), axis=-1), (t,), (dt,))[1]
    return normalizer, change / jnp.sum(escort, axis=-1)


def _log_tempered_exp(x: jax.Array, t: jax.Array) -> jax.Array:
    """The log of exp_t(x), log(1 + (1 - t) x) / (1 - t); -inf, without gradient, outside the support."""
    bend = 1 - t
    inside = (x > -jnp.inf) & (1 + bend * jnp.where(x == -jnp.inf, 0, x) > 0) | jnp.isnan(x)
    x = jnp.where(inside, x, 0)
    return jnp.where(inside, x * _log1p_ratio(bend * x), -jnp.inf)


def _tempered_log(log_x: jax.Array, t: jax.Array) -> jax.Array:
    """log_t of exp(log_x), (exp((1 - t) log_x) - 1) / (1 - t)."""
    return log_x * _expm1_ratio((1 - t) * log_x)


def _power(log_x: jax.Array, exponent: jax.Array | float) -> jax.Array:
    """exp(log_x) to a positive power; 0 without gradient at -inf."""
    none = log_x == -jnp.inf
    return jnp.where(none, 0, jnp.exp(exponent * jnp.where(none, 0, log_x)))


def _log1p_ratio(x: jax.Array) -> jax.Array:
    """log(1 + x) / x, by its series near 0, where the derivative of the quotient cancels."""
    small = jnp.abs(x) < 0.01
    near, far = jnp.where(small, x, 0), jnp.where(small, 1, x)
    series = jnp.polyval(jnp.array([(-1) ** n / (n + 1) for n in range(8, -1, -1)], x.dtype), near)
    return jnp.where(small, series, jnp.log1p(far) / far)


def _expm1_ratio(x: jax.Array) -> jax.Array:
    """(exp(x) - 1) / x, by its series near 0, where the derivative of the quotient cancels."""
    small = jnp.abs(x) < 0.01
    near, far = jnp.where(small, x, 0), jnp.where(small, 1, x)
    series = jnp.polyval(jnp.array([1 / math.factorial(n + 1) for n in range(8, -1, -1)], x.dtype), near)
    return jnp.where(small, series, jnp.expm1(far) / far)
