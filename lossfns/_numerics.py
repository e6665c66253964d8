"""Shifted log-sum-exp, safe normalisation, and other formulas free of cancellation."""

import functools
import math

import jax
import jax.numpy as jnp

from lossfns._contract import accumulation_dtype


def row_shift(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the row maximum [..., 1] and the shift to subtract, which is 0 where it is infinite; no gradient."""
    top = jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True, initial=-jnp.inf)).astype(accumulation_dtype(x))
    return top, jnp.where(jnp.isinf(top), 0, top)


@jax.custom_jvp
def log_normalizer(x: jax.Array, shift: jax.Array) -> jax.Array:
    """Returns log sum exp(x - shift) over the last axis; `shift` [..., 1] is a constant.

    The derivative rule recomputes the softmax instead of storing exp(x - shift), an array of the size of `x`. A row of
    -inf (with log-sum-exp -inf) has gradient 0.
    """
    return jnp.log(jnp.sum(jnp.exp(x - shift), axis=-1))


@log_normalizer.defjvp
def _log_normalizer_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    x, shift = primals
    log_z = log_normalizer(x, shift)
    return log_z, jnp.sum(softmax(x, shift, log_z) * tangents[0], axis=-1)


def softmax(x: jax.Array, shift: jax.Array, log_z: jax.Array) -> jax.Array:
    """exp(x - shift) / exp(log_z), 0 in a row of -inf."""
    return jnp.exp(x - shift - jnp.where(log_z == -jnp.inf, 0, log_z)[..., None])


def divided(x: jax.Array, by: jax.Array | float) -> jax.Array:
    """`x / by` for a positive divisor; an infinite x stays, with derivative 0 with respect to the divisor."""
    infinite = jnp.isinf(x) & (by > 0)
    return jnp.where(infinite, x, jnp.where(infinite, 0, x) / by)


def multiplied(x: jax.Array, by: jax.Array | float) -> jax.Array:
    """`x * by` for a positive factor; an infinite x stays, with derivative 0 with respect to the factor."""
    infinite = jnp.isinf(x) & (by > 0)
    return jnp.where(infinite, x, jnp.where(infinite, 0, x) * by)


def soft_capped(x: jax.Array, bound: jax.Array) -> jax.Array:
    """`c tanh(x / c)`; -inf stays -inf, and +inf becomes c."""
    infinite = jnp.isinf(x)
    return jnp.where(infinite, jnp.where(x > 0, bound, x), bound * jnp.tanh(jnp.where(infinite, 0, x) / bound))


def centred(x: jax.Array) -> jax.Array:
    """Rows minus their maximum, in float32 or wider; exact before a division by a temperature.

    Classes at +inf share the maximum, 0, and all others are then at -inf.
    """
    top, shift = row_shift(x)
    x = x.astype(shift.dtype)
    return jnp.where(top == jnp.inf, jnp.where(x == jnp.inf, 0, -jnp.inf), x) - shift


def log_softmax(x: jax.Array) -> jax.Array:
    """Log-probabilities of rows with maximum 0; all -inf in a row of -inf."""
    log_z = log_normalizer(x, jnp.zeros_like(x[..., :1]))
    return x - jnp.where(log_z == -jnp.inf, 0, log_z)[..., None]


def log_probabilities(x: jax.Array) -> jax.Array:
    """Log softmax over the last axis, in float32 or wider; -inf for a class at -inf, which gets no gradient.

    Classes at +inf share all of the probability evenly, and in a row of -inf no class has any.
    """
    return log_softmax(centred(x))


def expm1_series(t: jax.Array, order: int) -> jax.Array:
    """Sum of t^j / (j + order)! over j from 0, for |t| <= 1: e^t minus its first terms, over t^order."""
    total = jnp.ones_like(t)
    for j in range(18 if t.dtype == jnp.float64 else 10, 0, -1):
        total = 1 + t / (j + order) * total
    return total / math.factorial(order)


@jax.custom_jvp
def excess(d: jax.Array) -> jax.Array:
    """`d + e^-d - 1`, never negative; accurate near 0, where it is about d^2 / 2."""
    near = jnp.where(jnp.abs(d) < 1, d, 0)
    return jnp.where(jnp.abs(d) < 1, near * near * expm1_series(-near, 2), d + jnp.expm1(-d))


excess.defjvps(lambda tangent, value, d: -jnp.expm1(-d) * tangent)


@jax.custom_jvp
def relative_entropy(log_t: jax.Array, log_p: jax.Array, gap: jax.Array) -> jax.Array:
    """`t log(t / p) - t + p` of each entry, never negative: the terms of KL(t || p) for masses of equal sum.

    `gap` is log t - log p, computed as accurately as the caller can; ignored where one of the two is -inf. Near 0 this
    is t gap^2 / 2, while t log(t / p) alone has either sign and cancels in the sum.
    """
    t, p, d, both = _masses(log_t, log_p, gap)
    # Where p is larger, p replaces t e^-d, which overflows.
    term = jnp.where(d < -1, p + t * (d - 1), t * excess(jnp.where(d < -1, 0, d)))
    return jnp.where(both, term, jnp.where((log_t == -jnp.inf) | (t == 0), p, jnp.inf))


@relative_entropy.defjvp
def _relative_entropy_jvp(
    primals: tuple[jax.Array, jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    t, p, d, both = _masses(*primals)
    # p - t without cancellation of nearly equal masses; d is 0 unless both exist.
    apart = jnp.where(d >= 0, t * jnp.expm1(-jnp.where(d >= 0, d, 0)), -p * jnp.expm1(jnp.where(d >= 0, 0, d)))
    apart = jnp.where(both, apart, p - t)
    return relative_entropy(*primals), t * d * tangents[0] + apart * tangents[1]


def _masses(log_t: jax.Array, log_p: jax.Array, gap: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Both masses, the gap (0 where one is missing), and where both exist; NaN counts as existing."""
    both = (log_t != -jnp.inf) & (log_p != -jnp.inf)
    return jnp.exp(log_t), jnp.exp(log_p), jnp.where(both, gap, 0), both


def magnitude(x: jax.Array) -> jax.Array:
    """|x| with derivative 0 at 0, where `jnp.abs` has 1."""
    return jnp.where(x == 0, 0, jnp.abs(x))


def unit_vectors(x: jax.Array) -> jax.Array:
    """Rows of the last axis divided by their Euclidean norm, in float32 or wider.

    Scaled by the largest entry first, so that 1e25 does not overflow nor 1e-25 underflow. The zero vector stays
    zero, with the derivative of a vector of norm one.
    """
    x = x.astype(accumulation_dtype(x))
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    scaled = x / jnp.where(largest == 0, 1, largest)
    squares = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return scaled * jax.lax.rsqrt(jnp.where(squares == 0, 1, squares))


def log_add(*terms: jax.Array) -> jax.Array:
    """Log-sum-exp over a few arrays, entry by entry; -inf with gradient 0 where all are -inf."""
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, terms))
    shift = jnp.where(jnp.isinf(top), 0, top)
    total = functools.reduce(jnp.add, [jnp.exp(x - shift) for x in terms])
    return jnp.where(top == -jnp.inf, -jnp.inf, shift + jnp.log(jnp.where(top == -jnp.inf, 1, total)))


def log_of_sum(x: jax.Array) -> jax.Array:
    """Log of a sum of exponentials; -inf with gradient 0 where it is 0."""
    return jnp.where(x == 0, -jnp.inf, jnp.log(jnp.where(x == 0, 1, x)))


def vary_like(value: jax.Array, *arrays: jax.Array) -> jax.Array:
    """`value`, marked as varying over the mapped axes of `arrays`.

    Under `shard_map` the carry of a scan must vary over the same axes from the start. Both branches are equal, so the
    compiler drops the choice.
    """
    odd = functools.reduce(jnp.logical_or, [jnp.any(x != x) for x in arrays])
    return jnp.where(odd, value, value)


def at_label(labels: jax.Array, classes: int) -> jax.Array:
    """[..., V], True at the label."""
    return jnp.arange(classes).reshape((1,) * labels.ndim + (-1,)) == labels[..., None]


def focused(nats: jax.Array, gamma: jax.Array) -> jax.Array:
    """(1 - p)^gamma (-log p), from -log p; 0 with gradient 0 at p = 1, also for gamma < 1."""
    infinite = nats == jnp.inf
    finite = jnp.where(infinite, 1, nats)
    doubt = -jnp.expm1(-finite)
    sure = doubt <= 0
    power = jnp.exp(gamma * jnp.log(jnp.where(sure, 1, doubt)))
    return jnp.where(infinite, nats, jnp.where(sure, 0, power * finite))
