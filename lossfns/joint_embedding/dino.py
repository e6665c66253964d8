"""Self-distillation from a centred and sharpened teacher: DINO, iBOT."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from lossfns._blockwise import LogSum, SoftmaxMean, exact_operands, product, stream
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
    optional_size,
    positive,
    probability,
    zero_masked,
)
from lossfns._global_batch import total
from lossfns._numerics import centred
from lossfns.joint_embedding._heads import cross_entropy, scaled


def _check_heads(student: jax.Array, teacher: jax.Array, center: jax.Array | None, rank: int, layout: str) -> None:
    check_array("student_logits", student)
    check_array("teacher_logits", teacher)
    if student.ndim < rank or student.shape[-1] == 0:
        raise ValueError(f"student_logits must be {layout} with K of at least 1, got shape {student.shape}")
    check_shape("teacher_logits", teacher, student.shape, "of student_logits")
    if center is not None:
        check_shape("center", check_array("center", center), student.shape[-1:], "of one row of logits")


def _cross_entropies(
    student: jax.Array,
    teacher: jax.Array,
    used: jax.Array | None,
    center: jax.Array | None,
    temperatures: tuple[float | jax.Array, float | jax.Array],
    block_size: int | None,
) -> jax.Array:
    """Cross-entropies of the rows, 0 at unused rows; `block_size` rows at a time."""
    dtype = accumulation_dtype(*(x for x in (student, teacher, center) if x is not None))
    teacher = jax.lax.stop_gradient(teacher)
    rows = student.shape[:-1]

    def costs(s: jax.Array, t: jax.Array, keep: jax.Array | None) -> jax.Array:
        s, t = keep_rows(keep, s).astype(dtype), keep_rows(keep, t).astype(dtype)
        if center is not None:
            # A constant offset of the centre has no effect, but would round the logits.
            t = t - jnp.expand_dims(centred(jax.lax.stop_gradient(center).astype(dtype)), range(t.ndim - 1))
        return zero_masked(keep, cross_entropy(scaled(s, temperatures[0]), scaled(t, temperatures[1])))

    if block_size is None or math.prod(rows) == 0:
        return costs(student, teacher, used)
    flat = [x.reshape(-1, x.shape[-1]) for x in (student, teacher)]
    keep = jnp.ones(rows, bool) if used is None else used
    # Blocks of one row are mapped without an axis of length 1, for which XLA would copy the logits.
    batch_size = None if block_size == 1 else min(block_size, math.prod(rows))
    xs = *flat, keep.reshape(-1)
    blocks = jax.lax.map(lambda x: jax.checkpoint(costs)(*x), xs, batch_size=batch_size)
    out: jax.Array = blocks.reshape(rows)
    return out


@loss(static=("block_size",), student_temperature=positive, teacher_temperature=positive, block_size=optional_size)
def dino(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    center: jax.Array | None = None,
    student_temperature: float | jax.Array = 0.1,
    teacher_temperature: float | jax.Array = 0.04,
    where: jax.Array | None = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Cross-entropy of a student with a centred and sharpened teacher (DINO).

    $$-\sum_k q_k \log p_k, \quad q = \mathrm{softmax}((t - c) / \tau_t), \quad p = \mathrm{softmax}(s / \tau_s)$$

    Args:
        student_logits: [..., K], outputs $s$ of the student's head for one view.
        teacher_logits: [..., K], outputs $t$ of the teacher's head for another view of the same image; constants.
        center: [K], the running mean $c$ of the teacher's outputs before this batch (`dino_center`); None for 0.
        student_temperature: $\tau_s$.
        teacher_temperature: $\tau_t$; smaller than $\tau_s$, which sharpens the target.
        where: [...], boolean; False excludes the row.
        block_size: Rows per block; None for all at once.

    Returns:
        [...], nats per row.

    Example:
        An undecided student costs log 2; odds of 3 to 1 with a nearly certain teacher cost log(4/3).

        >>> student = jnp.log(jnp.array([[1.0, 1.0], [3.0, 1.0]]))
        >>> teacher = jnp.array([[0.0, 0.0], [10.0, 0.0]])
        >>> print(dino(student, teacher, student_temperature=1.0).round(4))
        [0.6931 0.2877]

    Conventions:
        - One pair of views. The paper's loss is the mean over all pairs of a teacher's global view and another student
          view: map over both (`jax.vmap`) and mask the pairs of equal views by `where`.
        - The temperatures are the authors'; their teacher starts at 0.04 and may be warmed up to 0.07.
        - Use the centre first and update it afterwards, with the batch's mean over all devices.
        - No array of the logits' size is stored for the gradient. If the compiler does not fuse reductions with their
          inputs (XLA on CPU), a `block_size` of 1 or 2 bounds the copies, which matters at 65,536 outputs.

    References:
        Caron et al. 2021, arXiv:2104.14294.
    """
    _check_heads(student_logits, teacher_logits, center, 1, "[..., K]")
    where = check_where(where, student_logits.shape[:-1])
    temperatures = student_temperature, teacher_temperature
    return _cross_entropies(student_logits, teacher_logits, where, center, temperatures, block_size)


@loss(static=("axis_name",), momentum=probability)
def dino_center(
    center: jax.Array,
    teacher_logits: jax.Array,
    *,
    momentum: float | jax.Array = 0.9,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Updates the centre of a teacher's outputs, $m c + (1 - m) \bar t$ with $\bar t$ the mean of the global batch.

    Args:
        center: [K], the centre $c$ used by `dino`.
        teacher_logits: [..., K], the teacher's outputs for this batch, all views.
        momentum: $m$.
        where: [...], boolean, the shape of the logits without their last axis; False excludes the row.
        axis_name: Mapped device axis of the global batch; all devices return the same.

    Returns:
        [K], without gradient; the old centre if no row is present.

    Example:
        >>> print(dino_center(jnp.array([1.0, 0.0]), jnp.array([[2.0, 0.0], [4.0, 2.0]]), momentum=0.5))
        [2.  0.5]

    Conventions:
        The momentum is the authors'. iBOT's patches have a separate centre, over all patches of all images, masked or
        not.

    References:
        Caron et al. 2021, arXiv:2104.14294.
    """
    check_array("teacher_logits", teacher_logits)
    if teacher_logits.ndim == 0:
        raise ValueError("teacher_logits must be [..., K], got a scalar")
    check_shape("center", check_array("center", center), teacher_logits.shape[-1:], "of one row of teacher_logits")
    rows = teacher_logits.shape[:-1]
    if where is not None:
        check_shape("where", check_array("where", where, "boolean"), rows, "of teacher_logits without the last axis")
    dtype = accumulation_dtype(center, teacher_logits)
    logits = keep_rows(where, jax.lax.stop_gradient(teacher_logits)).astype(dtype)
    present = jnp.ones(rows, dtype) if where is None else where.astype(dtype)
    count = total(jnp.sum(present), axis_name)
    mean = total(jnp.sum(logits, axis=tuple(range(len(rows)))), axis_name) / jnp.maximum(count, 1)
    old = jax.lax.stop_gradient(center).astype(dtype)
    return jnp.where(count == 0, old, old + (1 - as_scalar(momentum, dtype)) * (mean - old))


@loss(static=("block_size",), student_temperature=positive, teacher_temperature=positive, block_size=optional_size)
def ibot(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    masked: jax.Array,
    *,
    center: jax.Array | None = None,
    student_temperature: float | jax.Array = 0.1,
    teacher_temperature: float | jax.Array = 0.07,
    where: jax.Array | None = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""DINO's cross-entropy at the masked patches of an image, averaged over them (iBOT).

    Args:
        student_logits: [..., P, K], outputs of the student's head at the P patches of a masked image.
        teacher_logits: [..., P, K], outputs of the teacher's head at the patches of the whole image; constants.
        masked: [..., P], boolean: the masked patches. The others are ignored.
        center: [K], the running mean of the teacher's patch outputs before this batch (`dino_center`); None for 0.
        student_temperature: Divides the student's logits.
        teacher_temperature: Divides the teacher's centred logits.
        where: [...], boolean; False excludes the image.
        block_size: Patches per block; None for all at once.

    Returns:
        [...], nats per image; 0 for an image without a masked patch, which counts.

    Example:
        Three patches with two outputs; the first and last are masked and cost log 2 and log(4/3).

        >>> student = jnp.log(jnp.array([[[1.0, 1.0], [9.0, 1.0], [3.0, 1.0]]]))
        >>> teacher = jnp.array([[[0.0, 0.0], [0.0, 0.0], [10.0, 0.0]]])
        >>> masked = jnp.array([[True, False, True]])
        >>> print(ibot(student, teacher, masked, student_temperature=1.0).round(4))
        [0.4904]

    Conventions:
        - This is the patch term. The paper adds `dino` of the class tokens of different views.
        - Every image counts equally, whatever its number of masked patches, as in the paper and its code; for a mean
          over all masked patches use `dino(..., where=masked)`.
        - 0.07 is the end of the authors' warm-up of the patches' teacher temperature, from 0.04.

    References:
        Zhou et al. 2021, arXiv:2111.07832.
    """
    _check_heads(student_logits, teacher_logits, center, 2, "[..., P, K]")
    check_shape(
        "masked", check_array("masked", masked, "boolean"), student_logits.shape[:-1], "of student_logits without K"
    )
    where = check_where(where, student_logits.shape[:-2])
    used = keep_rows(where, masked, False)
    temperatures = student_temperature, teacher_temperature
    values = _cross_entropies(student_logits, teacher_logits, used, center, temperatures, block_size)
    count = jnp.sum(used, axis=-1, dtype=values.dtype)
    return zero_masked(where, jnp.sum(values, axis=-1) / jnp.maximum(count, 1))


def _both_heads(row_inputs: Any, columns: Any, index: jax.Array) -> tuple[LogSum, SoftmaxMean]:
    """The student's normaliser, and its mean logit under the teacher."""
    (student, teacher), scales = row_inputs
    student_head, teacher_head, center = columns
    s = product(student_head, student, exact_operands(student_head, student)) * scales[0]
    t = (product(teacher_head, teacher, exact_operands(teacher_head, teacher)) - center[:, None]) * scales[1]
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
    r"""`dino` of the logits $s = W_s h_s$ and $t = W_t h_t$, without an [N, K] array.

    Args:
        student: [N, D], the student's features $h_s$ before the last layer.
        student_head: [K, D], its prototypes $W_s$.
        teacher: [N, E], the teacher's features $h_t$ of another view of the same images; constants.
        teacher_head: [K, E], its prototypes $W_t$; constants.
        center: [K], the running mean of the teacher's logits before this batch; None for 0.
        student_temperature: Divides the student's logits.
        teacher_temperature: Divides the teacher's centred logits.
        where: [N], boolean; False excludes the row.
        block_size: Prototypes per block; None chooses.

    Returns:
        [N], nats per row.

    Example:
        A student at odds of 3 to 1 and an undecided teacher: (log(4/3) + log(4)) / 2.

        >>> student, teacher = jnp.array([[1.0]]), jnp.array([[0.0]])
        >>> head = jnp.log(jnp.array([[3.0], [1.0]]))
        >>> print(linear_dino(student, head, teacher, head, student_temperature=1.0).round(3))
        [0.837]

    Conventions:
        Features and prototypes are used unnormalised; DINO's head normalises both before. For `dino_center`, the mean
        of the teacher's logits is the product of its head with its mean feature. Forward-mode differentiation is not
        supported.

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
    scales = [1 / as_scalar(x, dtype) for x in (student_temperature, teacher_temperature)]
    row_inputs = ((keep_rows(where, student).T, constants[0]), scales)
    log_sum, under_teacher = stream(_both_heads, row_inputs, (student_head, *constants[1:]), block_size=block_size)
    return zero_masked(where, log_sum - under_teacher.mean)
