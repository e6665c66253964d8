"""Cross-entropies between distributions over prototypes, without a copy of the logits."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from lossfns._contract import accumulation_dtype, as_scalar
from lossfns._numerics import centred, divided, log_normalizer, softmax


def scaled(x: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """(x - row maximum) / temperature; subtracts first, while that is exact."""
    return divided(centred(x), as_scalar(temperature, accumulation_dtype(x)))


def _distribution(x: jax.Array) -> jax.Array:
    """The softmax of rows with maximum 0; NaN in a row of -inf."""
    return jnp.exp(x - log_normalizer(x, jnp.zeros_like(x[..., :1]))[..., None])


@jax.custom_jvp
def cross_entropy(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """-sum_k q_k log p_k with p and q the softmaxes of rows with maximum 0.

    In the forward pass both distributions exist only inside the sums. The derivative by the student is p - q, computed
    in one place: neither is stored, and it does not cancel where they are close.
    """
    inside = _under(_distribution(teacher), student)
    return log_normalizer(student, jnp.zeros_like(student[..., :1])) - inside


def _under(q: jax.Array, student: jax.Array) -> jax.Array:
    """The mean of the student's logits under q; NaN if q has mass where the student's logit is -inf."""
    return jnp.sum(jnp.where(student == -jnp.inf, jnp.where(q == 0, 0, -jnp.inf), q * student), axis=-1)


@functools.partial(cross_entropy.defjvp, symbolic_zeros=True)
def _cross_entropy_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (student, teacher), (of_student, of_teacher) = primals, tangents
    value, q = cross_entropy(student, teacher), _distribution(teacher)
    tangent_out = jnp.zeros_like(value)
    if not isinstance(of_student, SymbolicZero):
        zero = jnp.zeros_like(student[..., :1])
        tangent_out += jnp.sum((softmax(student, zero, log_normalizer(student, zero)) - q) * of_student, axis=-1)
    if not isinstance(of_teacher, SymbolicZero):
        # The teacher is a constant, but its temperature may be learnt.
        above = jnp.where(student == -jnp.inf, 0, student) - jnp.expand_dims(_under(q, student), -1)
        tangent_out -= jnp.sum(q * above * of_teacher, axis=-1)
    return value, tangent_out
