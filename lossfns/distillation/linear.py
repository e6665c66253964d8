"""Distillation from the hidden states and output heads of both models, without materialising the logits."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from lossfns._blockwise import PRECISIONS, LogSum, Operands, SoftmaxMean, exact_operands, product, stream
from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    check_array,
    check_rank,
    check_shape,
    check_where,
    keep_rows,
    loss,
    one_of,
    optional_size,
    positive,
    zero_masked,
)
from lossfns._numerics import divided, excess, row_shift


@loss(
    static=("block_size", "axis_name", "precision"),
    temperature=positive,
    block_size=optional_size,
    precision=one_of(*PRECISIONS),
)
def linear_distillation(
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_hidden: jax.Array,
    teacher_head: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
    student_bias: jax.Array | None = None,
    teacher_bias: jax.Array | None = None,
    where: jax.Array | None = None,
    block_size: int | None = None,
    axis_name: AxisName = None,
    precision: str = "highest",
) -> jax.Array:
    r"""`knowledge_distillation` of the logits of two output heads, without materialising them.

    $$T^2\, \mathrm{KL}\big(\mathrm{softmax}(t / T) \,\|\, \mathrm{softmax}(s / T)\big), \quad s = W_s h_s + b_s,
    \quad t = W_t h_t + b_t$$

    Args:
        student_hidden: [..., D], the student's final hidden states.
        student_head: [V, D].
        teacher_hidden: [..., E], the teacher's at the same tokens; constant, like all of the teacher's arrays.
        teacher_head: [V, E], over the same classes.
        temperature: T, divides both.
        student_bias: [V].
        teacher_bias: [V]; a class at -inf has probability 0.
        where: [...], boolean; False excludes the token.
        block_size: Classes per block; None chooses.
        axis_name: Name of a mapped device axis that the classes are sharded over: heads and biases are this device's,
            tokens and result the same on all devices.
        precision: See `linear_cross_entropy`.

    Returns:
        [...], nats per token, at least 0 up to rounding.

    Example:
        Odds of 9 to 1, softened at temperature 2 to 3 to 1, against equal odds: 4 (3/4 log 3/2 + 1/4 log 1/2).

        >>> one, teacher = jnp.ones((1, 1)), jnp.log(jnp.array([[9.0], [1.0]]))
        >>> print(linear_distillation(one, jnp.zeros((2, 1)), one, teacher, temperature=2.0).round(4))
        [0.5232]

    Conventions:
        The factor $T^2$ is Hinton's, as in `knowledge_distillation`.

    References:
        Hinton et al. 2015, arXiv:1503.02531. Wijmans et al. 2024, arXiv:2411.09009 (blocks of the vocabulary).
    """
    student = _head("student", student_hidden, student_head, student_bias)
    teacher = jax.lax.stop_gradient(_head("teacher", teacher_hidden, teacher_head, teacher_bias))
    if teacher_head.shape[0] != student_head.shape[0]:
        raise ValueError(
            f"teacher_head must have the {student_head.shape[0]} classes of student_head, got {teacher_head.shape}"
        )
    shape = student_hidden.shape[:-1]
    if teacher_hidden.shape[:-1] != shape:
        raise ValueError(
            f"teacher_hidden must have the leading shape {shape} of student_hidden, got {teacher_hidden.shape}"
        )
    where = check_where(where, shape)
    dtype = accumulation_dtype(*jax.tree.leaves((student, teacher)))
    t = as_scalar(temperature, dtype)

    def rows(hidden: jax.Array) -> jax.Array:
        return keep_rows(where, hidden).reshape(-1, hidden.shape[-1]).T

    row_inputs = {"student": rows(student_hidden), "teacher": jax.lax.stop_gradient(rows(teacher_hidden)), "t": t}
    columns = {"student": _centred(student, dtype, axis_name), "teacher": _centred(teacher, dtype, axis_name)}
    operands: list[Any] = [
        (exact_operands(*model[:2]) if dtype == jnp.float32 else Operands(dtype))._replace(precision=precision)
        for model in (student, teacher)
    ]
    block = functools.partial(_block, *operands)
    row_inputs["offset"] = jax.lax.stop_gradient(_mean_gap(row_inputs, columns, axis_name))
    (of_teacher, gap), of_student, (_, excesses), (_, powers), of_others = stream(
        block, row_inputs, columns, block_size=block_size, axis_name=axis_name
    )
    values = gap - (of_teacher - of_student)
    # For nearly equal models these sums cancel. To second order KL = E[u + e^-u - 1] + log1p(B) - B with
    # B = E[e^-u - 1]; the gradient is accurate as it is. Both get the student mass on classes that the teacher lacks,
    # on the teacher's scale.
    others = jnp.exp(of_others + row_inputs["offset"] - of_teacher)
    powers, excesses = powers + others, excesses + others
    small = (jnp.abs(powers) < 0.5) & (values < 0.1)
    exact = jnp.where(small, excesses - excess(-jnp.log1p(jnp.where(small, powers, 0))), values)
    # values - lost is exactly 0 and carries the gradient.
    exact, lost = jax.lax.stop_gradient((jnp.maximum(exact, 0), values))
    values = jnp.where(values == jnp.inf, values, exact + (values - lost))
    values = jnp.square(t) * values
    return zero_masked(where, values.reshape(shape))


def _block(of_student: Operands, of_teacher: Operands, row_inputs: Any, columns: Any, index: jax.Array) -> Any:
    def logits(who: str, operands: Operands) -> jax.Array:
        head, bias = columns[who]
        x = product(head, row_inputs[who], operands)
        return divided(x if bias is None else x + bias[:, None], row_inputs["t"])

    student, teacher = logits("student", of_student), logits("teacher", of_teacher)
    gap = jnp.where(teacher == -jnp.inf, 0, teacher - student)
    fixed, others, u = jax.lax.stop_gradient((teacher, student, gap - row_inputs["offset"][None]))
    apart = (fixed == -jnp.inf) | (u < -_LARGEST)
    u = jnp.where(apart, 0, jnp.minimum(u, _LARGEST))
    return (
        SoftmaxMean(teacher, gap),
        LogSum(student),
        SoftmaxMean(fixed, excess(u)),
        SoftmaxMean(fixed, jnp.expm1(-u)),
        LogSum(jnp.where(apart, others, -jnp.inf)),
    )


_LARGEST = 40.0
"""Exponentials of gaps must stay finite. Beyond this lead of the student, the teacher's probability is negligible."""


def _mean_gap(row_inputs: Any, columns: Any, axis_name: Any) -> jax.Array:
    """[tokens], teacher minus student logit over the temperature, averaged over classes."""

    def total(who: str) -> jax.Array:
        head, bias = columns[who]
        dtype = accumulation_dtype(head)
        x = jnp.einsum(
            "d,dn->n", jnp.sum(head, axis=0, dtype=dtype), row_inputs[who].astype(dtype), precision="highest"
        )
        return x if bias is None else x + jnp.sum(jnp.where(jnp.isinf(bias), 0, bias))

    sums = total("teacher") - total("student"), jnp.asarray(len(columns["teacher"][0]), jnp.float32)
    gap, count = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    mean: jax.Array = gap / jnp.maximum(count, 1) / row_inputs["t"]
    return mean


def _centred(model: Any, dtype: jnp.dtype, axis_name: Any) -> tuple[jax.Array, jax.Array | None]:
    """Head, and bias minus its maximum: a common offset would lose digits in the division."""
    _, head, bias = model
    if bias is None:
        return head, None
    top = row_shift(bias.astype(dtype))[0]
    top = top if axis_name is None else jax.lax.pmax(top, axis_name)
    return head, bias.astype(dtype) - jnp.where(jnp.isinf(top), 0, top)


def _head(who: str, hidden: jax.Array, head: jax.Array, bias: jax.Array | None) -> Any:
    check_array(f"{who}_hidden", hidden)
    check_rank(f"{who}_head", check_array(f"{who}_head", head), 2, "[classes, features]")
    if hidden.ndim == 0 or hidden.shape[-1] != head.shape[1]:
        raise ValueError(
            f"{who}_hidden must have a last axis of the {head.shape[1]} features of {who}_head, got {hidden.shape}"
        )
    if bias is not None:
        check_shape(f"{who}_bias", check_array(f"{who}_bias", bias), head.shape[:1], f"of the classes of {who}_head")
    return hidden, head, bias
