"""Distillation of a teacher's features, attention maps and self-attention."""

import math

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_array,
    check_rank,
    check_shape,
    check_where,
    flag,
    keep_rows,
    loss,
    one_of,
    positive,
    sanitize,
    zero_masked,
)
from lossfns._divergences import divergence
from lossfns._numerics import centred, divided, unit_vectors


@loss(static=("half", "average"), half=flag, average=flag)
def fitnet_hint(
    student_features: jax.Array,
    teacher_features: jax.Array,
    *,
    half: bool = True,
    average: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Squared distance of the student's features from the teacher's (FitNets), $\tfrac12 \lVert s - t \rVert^2$.

    Args:
        student_features: [N, ...], after the regressor to the teacher's shape.
        teacher_features: [N, ...], the same shape, a constant: it gets no gradient.
        half: Whether to multiply by 1/2.
        average: Whether to divide by the number of features per example.
        where: [N], boolean; False excludes the example.

    Returns:
        [N], squared units of the features.

    Example:
        >>> print(fitnet_hint(jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2))))
        [12.5]

    Conventions:
        The paper has the half and the sum. RepDistiller and most ports use torch's `mse_loss`: `half=False`,
        `average=True`, 2/D of it.

    References:
        Romero et al. 2014, arXiv:1412.6550.
    """
    student, teacher, where = _both(student_features, teacher_features, where)
    check_shape("teacher_features", teacher_features, student_features.shape, "of student_features")
    gaps = (student - teacher).reshape(student.shape[0], math.prod(student.shape[1:]))
    values = jnp.sum(jnp.square(gaps), axis=-1) / ((2 if half else 1) * (max(gaps.shape[-1], 1) if average else 1))
    return zero_masked(where, values)


@loss(static=("form",), form=one_of("norm", "mean_square"), power=positive)
def attention_transfer(
    student_features: jax.Array,
    teacher_features: jax.Array,
    *,
    power: float | jax.Array = 2.0,
    form: str = "norm",
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Attention transfer: distance between the attention maps of student and teacher.

    $$\Big\lVert \frac{q^s}{\lVert q^s \rVert} - \frac{q^t}{\lVert q^t \rVert} \Big\rVert, \quad
    q_i = \sum_c |x_{ic}|^p$$

    Args:
        student_features: [N, ..., C], channels last; the axes between are positions of the map.
        teacher_features: [N, ..., C'], at the same positions, a constant: no gradient. Its channels may differ.
        power: p, of the channels' magnitudes.
        form: "norm" is the distance above, with gradient 0 where the maps are equal; "mean_square" is its square over
            the number of positions.
        where: [N], boolean; False excludes the example.

    Returns:
        [N], dimensionless, in 0 .. root of 2 for "norm". A map of zeros stays zero.

    Example:
        All attention at one position against all at another: the root of 2.

        >>> student, teacher = jnp.array([[[3.0], [0.0]]]), jnp.array([[[0.0, 0.0], [1.0, 1.0]]])
        >>> print(attention_transfer(student, teacher).round(4))
        [1.4142]

    Conventions:
        The paper sums the norm over layers with weight beta / 2 (beta = 1000 / positions); the authors' code averages
        the squares, "mean_square". Normalised maps do not depend on averaging or summing over channels.

    References:
        Zagoruyko and Komodakis 2016, arXiv:1612.03928.
    """
    student, teacher, where = _both(student_features, teacher_features, where)
    places = student_features.shape[:-1]
    if student_features.ndim < 3 or teacher_features.shape[:-1] != places:
        raise ValueError(
            "student_features and teacher_features must have shapes [N, ..., C] that differ in C only, "
            f"got {student_features.shape} and {teacher_features.shape}"
        )
    p = as_scalar(power, student.dtype)
    gaps = _attention_map(student, p) - _attention_map(teacher, p)
    squares = jnp.sum(jnp.square(gaps), axis=-1)
    if form == "mean_square":
        return zero_masked(where, squares / max(gaps.shape[-1], 1))
    zero = squares == 0
    return zero_masked(where, jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares))))


def _attention_map(x: jax.Array, power: jax.Array) -> jax.Array:
    """[N, positions], of norm one; scaled by the largest entry before taking the power."""
    x = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=(1, 2), keepdims=True, initial=0))
    x = jnp.abs(x / jnp.where(largest == 0, 1, largest))
    zero = x == 0
    return unit_vectors(jnp.sum(jnp.where(zero, 0, jnp.where(zero, 1, x) ** power), axis=-1))


@loss()
def minilm(
    student_queries: jax.Array,
    student_keys: jax.Array,
    student_values: jax.Array,
    teacher_queries: jax.Array,
    teacher_keys: jax.Array,
    teacher_values: jax.Array,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""KL divergence of the last layer's self-attention and value relations from the teacher's (MiniLM).

    $$\frac1H \sum_h \mathrm{KL}\big(\sigma(q^t k^t) \,\|\, \sigma(q^s k^s)\big)
    + \mathrm{KL}\big(\sigma(v^t v^t) \,\|\, \sigma(v^s v^s)\big), \quad
    \sigma(x y) = \mathrm{softmax}\Big(\frac{x y^\top}{\sqrt d}\Big)$$

    Args:
        student_queries: [B, T, H, d], as many heads as the teacher; d may differ.
        student_keys: [B, T, H, d].
        student_values: [B, T, H, d].
        teacher_queries: [B, T, H, d'], constant, like all of the teacher's arrays: no gradient.
        teacher_keys: [B, T, H, d'].
        teacher_values: [B, T, H, d'].
        where: [B, T], boolean; False excludes the token as query and as key.

    Returns:
        [B, T], nats per token, at least 0. The mean over tokens is the paper's loss.

    Example:
        Two tokens, one head of size 1. Only the second token's query-key logits differ, by log 3: odds of 3 to 1
        against equal odds, 3/4 log 3/2 + 1/4 log 1/2.

        >>> zeros = jnp.zeros((1, 2, 1, 1))
        >>> queries, keys = zeros.at[0, 1].set(1.0), zeros.at[0, 0].set(jnp.log(3.0))
        >>> print(minilm(zeros, zeros, zeros, queries, keys, zeros).round(4))
        [[0.     0.1308]]

    Conventions:
        MiniLMv2 also compares query-query and key-key relations, over relation heads: split the vectors into that many
        heads and pass queries as both queries and keys.

    References:
        Wang et al. 2020, arXiv:2002.10957 (MiniLM). Wang et al. 2020, arXiv:2012.15828 (MiniLMv2).
    """
    student = {"queries": student_queries, "keys": student_keys, "values": student_values}
    teacher = {"queries": teacher_queries, "keys": teacher_keys, "values": teacher_values}
    heads = None
    for who, arrays in (("student", student), ("teacher", teacher)):
        for name, x in arrays.items():
            check_rank(f"{who}_{name}", check_array(f"{who}_{name}", x), 4, "[batch, tokens, heads, features]")
            check_shape(f"{who}_{name}", x, arrays["queries"].shape, f"of {who}_queries")
            heads = heads or x.shape[:3]
            if x.shape[:3] != heads:
                raise ValueError(f"{who}_{name} must have the batch, tokens and heads {heads}, got {x.shape}")
    where = check_where(where, student_queries.shape[:2])
    dtype = accumulation_dtype(*student.values(), *teacher.values())
    q, k, v = (keep_rows(where, x).astype(dtype) for x in student.values())
    q_t, k_t, v_t = (jax.lax.stop_gradient(keep_rows(where, x).astype(dtype)) for x in teacher.values())
    attention = divergence(_relations(q, k, where), _relations(q_t, k_t, where))
    values = divergence(_relations(v, v, where), _relations(v_t, v_t, where))
    return zero_masked(where, jnp.mean(attention + values, axis=1))


def _relations(x: jax.Array, y: jax.Array, where: jax.Array | None) -> jax.Array:
    """Scaled inner products [B, H, T, T]; -inf at masked keys, 0 for masked queries."""
    scores = jnp.einsum("bihd,bjhd->bhij", x, y, precision=jax.lax.Precision.HIGHEST)
    if where is not None:
        scores = jnp.where(where[:, None, :, None], jnp.where(where[:, None, None, :], scores, -jnp.inf), 0)
    return divided(centred(scores), max(x.shape[-1], 1) ** 0.5)


def _both(
    student: jax.Array, teacher: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns student and teacher, sanitised, the teacher without gradient; and the mask."""
    check_array("student_features", student)
    check_array("teacher_features", teacher)
    for name, x in (("student_features", student), ("teacher_features", teacher)):
        if x.ndim < 2:
            raise ValueError(f"{name} must have an axis of examples and one of features, got shape {x.shape}")
    rows = student.shape[:1]
    check_shape("teacher_features", teacher, rows + teacher.shape[1:], "of as many examples as student_features")
    where = check_where(where, rows)
    x, y = sanitize(where, student, teacher)
    return x, jax.lax.stop_gradient(y), where
