"""DINO from features and prototypes: logits that are never held."""

from typing import Any

import jax
import jax.numpy as jnp

from lossfns._blockwise import LogSum, SoftmaxMean, operand_dtype, product, stream
from lossfns._contract import (
    accumulation_dtype,
    check_array,
    check_rank,
    check_shape,
    check_where,
    hyper,
    keep_rows,
    loss,
    optional_size,
    positive,
    zero_masked,
)
from lossfns._numerics import centred


def _both_heads(row_inputs: Any, part: Any, index: jax.Array) -> tuple[LogSum, SoftmaxMean]:
    """The student's normaliser, and its mean logit under the teacher."""
    (student, teacher), scales = row_inputs
    student_head, teacher_head, center = part
    s = product(student_head, student, operand_dtype(student_head, student)) * scales[0]
    t = (product(teacher_head, teacher, operand_dtype(teacher_head, teacher)) - center[:, None]) * scales[1]
    return LogSum(s), SoftmaxMean(t, s)


@loss(static=("block_size",), student_temperature=positive, teacher_temperature=positive, block_size=optional_size)
def linear_dino(
    student: jax.Array,
    student_head: jax.Array,
    teacher: jax.Array,
    teacher_head: jax.Array,
    *,
    center: jax.Array | None = None,
    student_temperature: float | jax.Array = 0.1,
    teacher_temperature: float | jax.Array = 0.04,
    where: jax.Array | None = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""`dino` of the logits $s = W_s h_s$ and $t = W_t h_t$, block by block of prototypes; no [N, K] array is made.

    Args:
        student: [N, D], the student's features $h_s$ before the last layer.
        student_head: [K, D], its prototypes $W_s$.
        teacher: [N, E], the teacher's features $h_t$ of another view of the same images; constants.
        teacher_head: [K, E], its prototypes $W_t$; constants.
        center: [K], the running mean of the teacher's logits before this batch; None is 0.
        student_temperature: Divides the student's logits.
        teacher_temperature: Divides the teacher's centred logits.
        where: [N], boolean; False deletes the row.
        block_size: Prototypes handled at a time, in the backward pass once more; None for what is fast. Value and
            gradient are the same.

    Returns:
        [N], nats for each row, float32 or wider; 0 at masked rows.

    Raises:
        ValueError: If shapes do not fit or a hyper-parameter is out of range.
        TypeError: If an argument is not floating.

    Example:
        A student at odds of 3 to 1 and a teacher that does not know: (log(4/3) + log(4)) / 2.

        >>> student, teacher = jnp.array([[1.0]]), jnp.array([[0.0]])
        >>> head = jnp.log(jnp.array([[3.0], [1.0]]))
        >>> print(linear_dino(student, head, teacher, head, student_temperature=1.0).round(3))
        [0.837]

    Conventions:
        The features and prototypes are used as they come; DINO's head normalises both before. The mean of the teacher's
        logits, for `dino_center`, is the product of its head with its mean feature: no logits are needed for it either.
        Forward-mode differentiation is not offered.

    References:
        Caron et al. 2021, arXiv:2104.14294.
    """
    names = ("student", "student_head", "teacher", "teacher_head")
    arrays = (student, student_head, teacher, teacher_head)
    for name, x, layout in zip(names, arrays, ("[rows, D]", "[K, D]", "[rows, E]", "[K, E]"), strict=True):
        check_rank(name, check_array(name, x), 2, layout)
    rows, prototypes = student.shape[0], student_head.shape[0]
    if prototypes == 0:
        raise ValueError(f"student_head must have at least one prototype, got shape {student_head.shape}")
    check_shape("student_head", student_head, (prototypes, student.shape[1]), f"for features {student.shape}")
    check_shape("teacher", teacher, (rows, teacher.shape[1]), "with the rows of student")
    check_shape("teacher_head", teacher_head, (prototypes, teacher.shape[1]), "with the prototypes of student_head")
    if center is not None:
        check_shape("center", check_array("center", center), (prototypes,), "of one number for each prototype")
    where = check_where(where, (rows,))
    dtype = accumulation_dtype(*arrays, *([] if center is None else [center]))
    if rows == 0:
        return jnp.zeros(0, dtype)
    middle = jnp.zeros(prototypes, dtype) if center is None else centred(center.astype(dtype))
    constants = jax.lax.stop_gradient((keep_rows(where, teacher).T, teacher_head, middle))
    scales = [1 / hyper(x, dtype) for x in (student_temperature, teacher_temperature)]
    row_inputs = ((keep_rows(where, student).T, constants[0]), scales)
    log_sum, under_teacher = stream(_both_heads, row_inputs, (student_head, *constants[1:]), block_size=block_size)
    return zero_masked(where, log_sum - under_teacher.mean)
