"""Cross-entropies between distributions over prototypes, without a copy of the logits."""

import jax
import jax.numpy as jnp

from lossfns._contract import accumulation_dtype, hyper
from lossfns._numerics import log_normalizer, row_shift, softmax


def scaled(x: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """(x - its row maximum) / temperature: the subtraction first, while it is exact."""
    dtype = accumulation_dtype(x)
    return (x.astype(dtype) - row_shift(x)[1]) / hyper(temperature, dtype)


def log_softmax(x: jax.Array) -> jax.Array:
    """Log-probabilities of rows whose maximum is 0."""
    return x - log_normalizer(x, jnp.zeros_like(x[..., :1]))[..., None]


def _distribution(x: jax.Array) -> jax.Array:
    """The softmax of rows whose maximum is 0; NaN in a row of -inf."""
    return jnp.exp(x - log_normalizer(x, jnp.zeros_like(x[..., :1]))[..., None])


@jax.custom_jvp
def cross_entropy(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """-sum_k q_k log p_k with p and q the softmaxes of rows whose maximum is 0; the teacher is a constant.

    Forward, both distributions exist only inside the sums. The derivative is the difference p - q, made in one place:
    neither is kept, and no digits are lost where they meet.
    """
    q = _distribution(teacher)
    inside = jnp.where(student > -jnp.inf, q * student, jnp.where(q == 0, 0, -jnp.inf))
    return log_normalizer(student, jnp.zeros_like(student[..., :1])) - jnp.sum(inside, axis=-1)


@cross_entropy.defjvp
def _cross_entropy_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    student, teacher = primals
    zero = jnp.zeros_like(student[..., :1])
    p = softmax(student, zero, log_normalizer(student, zero))
    difference = p - jax.lax.stop_gradient(_distribution(teacher))
    return cross_entropy(student, teacher), jnp.sum(difference * tangents[0], axis=-1)
