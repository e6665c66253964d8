"""Shifted log-sum-exp and safe normalisation: where losses lose their digits."""

import functools

import jax
import jax.numpy as jnp

from lossfns._contract import accumulation_dtype


def row_shift(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the row maximum [..., 1] and, for subtraction, the same with 0 where it is infinite; no gradient."""
    top = jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True, initial=-jnp.inf)).astype(accumulation_dtype(x))
    return top, jnp.where(jnp.isinf(top), 0, top)


@jax.custom_jvp
def log_normalizer(x: jax.Array, shift: jax.Array) -> jax.Array:
    """Return log sum exp(x - shift) over the last axis; `shift` [..., 1] is a constant.

    The derivative rule recomputes the softmax in place of keeping exp(x - shift), so nothing of the size of `x` is
    stored, and a row of -inf (log of nothing: -inf) has gradient 0.
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


def log_probabilities(x: jax.Array) -> jax.Array:
    """Log softmax over the last axis, in float32 or wider; -inf for a class at -inf, which gets no gradient.

    Classes at +inf share all of the probability evenly, and in a row of nothing but -inf no class has any.
    """
    top, shift = row_shift(x)
    x = x.astype(shift.dtype)
    x = jnp.where(top == jnp.inf, jnp.where(x == jnp.inf, 0, -jnp.inf), x)
    log_z = log_normalizer(x, shift)
    return x - shift - jnp.where(log_z == -jnp.inf, 0, log_z)[..., None]


def magnitude(x: jax.Array) -> jax.Array:
    """|x| with derivative 0 at 0, where that of `jnp.abs` is 1."""
    return jnp.where(x == 0, 0, jnp.abs(x))


def unit_vectors(x: jax.Array) -> jax.Array:
    """Rows of the last axis divided by their Euclidean norm, in float32 or wider.

    Scaled by the largest entry first, so that neither 1e25 overflows nor 1e-25 underflows. The zero vector stays zero,
    with the derivative of a vector of norm one.
    """
    x = x.astype(accumulation_dtype(x))
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    scaled = x / jnp.where(largest == 0, 1, largest)
    squares = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return scaled * jax.lax.rsqrt(jnp.where(squares == 0, 1, squares))


def log_add(*terms: jax.Array) -> jax.Array:
    """Log of the sum of exp of a few arrays of one shape, entry by entry; where all are -inf, -inf with gradient 0."""
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, terms))
    shift = jnp.where(jnp.isinf(top), 0, top)
    total = functools.reduce(jnp.add, [jnp.exp(x - shift) for x in terms])
    return jnp.where(top == -jnp.inf, -jnp.inf, shift + jnp.log(jnp.where(top == -jnp.inf, 1, total)))


def log_of_sum(x: jax.Array) -> jax.Array:
    """Log x of a sum of exponentials: -inf with gradient 0 where it is 0."""
    return jnp.where(x == 0, -jnp.inf, jnp.log(jnp.where(x == 0, 1, x)))


def start_of_scan(value: jax.Array, *arrays: jax.Array) -> jax.Array:
    """`value`, said to vary over the mapped axes that `arrays` vary over.

    `shard_map` wants a scan's carry to be of one kind from the start. Both sides of the choice are alike, so the
    compiler drops it.
    """
    odd = functools.reduce(jnp.logical_or, [jnp.any(x != x) for x in arrays])
    return jnp.where(odd, value, value)
