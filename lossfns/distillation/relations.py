"""Distillation of relations between the examples of a batch, and contrastive distillation."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossfns._blockwise import keep, map_rows
from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    check_array,
    check_rank,
    check_shape,
    check_where,
    loss,
    positive,
    sanitize,
    zero_masked,
)
from lossfns._global_batch import gather_rows, row_numbers
from lossfns._numerics import unit_vectors


@loss(static=("axis_name",))
def relational_distance(
    student_embeddings: jax.Array,
    teacher_embeddings: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Difference of pairwise distances between student and teacher (RKD-D).

    $$\frac{1}{N - 1} \sum_{j \ne i} h\Big(\frac{\lVert s_i - s_j \rVert}{\mu_s}
    - \frac{\lVert t_i - t_j \rVert}{\mu_t}\Big)$$

    with $\mu$ the mean distance over all pairs and $h$ the Huber loss with $\delta = 1$.

    Args:
        student_embeddings: [N, D].
        teacher_embeddings: [N, D'], a constant: no gradient.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], dimensionless; 0 for a single example. The mean over examples is the mean over ordered pairs.

    Example:
        Three points on a line, evenly spaced for the teacher (distances 1, 1, 2 over 4/3), two of them equal for the
        student (0, 3, 3 over 2).

        >>> student, teacher = jnp.array([[0.0], [0.0], [3.0]]), jnp.array([[0.0], [1.0], [2.0]])
        >>> print(relational_distance(student, teacher).round(4))
        [0.1406 0.2812 0.1406]

    Conventions:
        The authors' code averages over all N^2 entries, including the zero diagonal: (N-1)/N of the mean here. Its mean
        distance excludes pairs at distance 0.

    References:
        Park et al. 2019, arXiv:1904.05068.
    """
    student, teacher, where = _pairs(student_embeddings, teacher_embeddings, where)
    spaces, present, number = _batch(student, teacher, where, axis_name)
    (ours, our_mean), (theirs, their_mean) = (_distances(*space, present, number, axis_name) for space in spaces)
    (mine, everyone, largest), _ = spaces

    def mean_gap(part: tuple[jax.Array, ...]) -> jax.Array:
        mine, known, fixed, number = part
        others = present[None] & (number[:, None] != jnp.arange(len(present))[None])
        gaps = _known_lengths(known, mine, everyone, largest) / our_mean - fixed / jax.lax.stop_gradient(their_mean)
        sums = jnp.sum(jnp.where(others, _huber(gaps), 0), axis=-1)
        return sums / jnp.maximum(jnp.sum(others, axis=-1, dtype=sums.dtype), 1)

    return zero_masked(where, map_rows(mean_gap, (mine, ours, theirs, number), everyone.size))


@loss(static=("axis_name",))
def relational_angle(
    student_embeddings: jax.Array,
    teacher_embeddings: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Difference of angles between triples of examples between student and teacher (RKD-A).

    $$\frac{1}{(N - 1)(N - 2)} \sum_{i \ne j} \sum_{k \ne i, j} h(\cos \angle s_i s_j s_k - \cos \angle t_i t_j t_k)$$

    with $h$ the Huber loss with $\delta = 1$; the value of example $j$ is over the angles at it.

    Args:
        student_embeddings: [N, D].
        teacher_embeddings: [N, D'], a constant: no gradient.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], dimensionless; 0 for fewer than three examples. The mean over examples is the mean over ordered triples.
        Coinciding examples have cosine 0.

    Example:
        At the first point a right angle for the teacher, a straight line for the student: cosines 0 and -1 there, the
        root of 1/2 and 1 at the others.

        >>> student = jnp.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
        >>> teacher = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> print(relational_angle(student, teacher).round(4))
        [0.5    0.0429 0.0429]

    Conventions:
        The authors' code averages over all N^3 entries: (N-1)(N-2)/N^2 of the mean here. Time grows as N^3; the cosines
        are computed for some examples at a time, and recomputed for the gradient.

    References:
        Park et al. 2019, arXiv:1904.05068.
    """
    student, teacher, where = _pairs(student_embeddings, teacher_embeddings, where)
    spaces, present, number = _batch(student, teacher, where, axis_name)

    (ours, all_ours, _), (theirs, all_theirs, _) = spaces
    apart = jnp.arange(len(present))

    def at_corner(part: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        mine, fixed, number = part
        others = present[None] & (number[:, None] != apart[None])
        ways, goal = (
            unit_vectors(every[None] - own[:, None]) for every, own in ((all_ours, mine), (all_theirs, fixed))
        )
        count = jnp.sum(others, axis=1, dtype=ways.dtype)
        return _angle_gaps(ways, jax.lax.stop_gradient(goal), others) / jnp.maximum(count * (count - 1), 1)

    entries = len(present) * (len(present) + all_ours.shape[1] + all_theirs.shape[1])
    return zero_masked(where, map_rows(at_corner, (ours, theirs, number), entries))


@jax.custom_jvp
def _angle_gaps(ways: jax.Array, goal: jax.Array, others: jax.Array) -> jax.Array:
    """[N], the sum of Huber losses of cosines between any two of `ways` [N, M, D], minus the same cosines of `goal`."""

    def of_some(part: _Sides) -> jax.Array:
        return jnp.sum(jnp.where(_pairs_of(part, others), _huber(_cosine_gaps(part, ways, goal)), 0), axis=-1)

    return jnp.sum(map_rows(of_some, _first_sides(ways, goal, others), others.size), axis=0)


@_angle_gaps.defjvp
def _angle_gaps_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    # Each pair is on both sides of the diagonal with the same gradient: one product instead of two.
    ways, goal, others = primals

    def of_some(part: _Sides) -> jax.Array:
        derivatives = jnp.where(_pairs_of(part, others), jnp.clip(_cosine_gaps(part, ways, goal), -1, 1), 0)
        return jnp.einsum("ijk,jkd->ijd", derivatives, ways, precision=jax.lax.Precision.HIGHEST)

    by_ways = 2 * jnp.moveaxis(map_rows(of_some, _first_sides(ways, goal, others), others.size), 0, 1)
    return _angle_gaps(*primals), jnp.sum(by_ways * tangents[0], axis=(1, 2))


class _Sides(NamedTuple):
    """Some first sides of the angles at N corners: student and teacher [I, N, D], mask of others [I, N], indices."""

    ways: jax.Array
    goal: jax.Array
    other: jax.Array
    number: jax.Array


def _first_sides(ways: jax.Array, goal: jax.Array, others: jax.Array) -> _Sides:
    ways, goal, other = (jnp.moveaxis(x, 1, 0) for x in (ways, goal, others))
    return _Sides(ways, goal, other, jnp.arange(others.shape[1]))


def _cosine_gaps(part: _Sides, ways: jax.Array, goal: jax.Array) -> jax.Array:
    """[I, N, M], student minus teacher cosine of each angle."""
    ours, theirs = (
        jnp.einsum("ijd,jkd->ijk", some, every, precision=jax.lax.Precision.HIGHEST)
        for some, every in ((part.ways, ways), (part.goal, goal))
    )
    return ours - theirs


def _pairs_of(part: _Sides, others: jax.Array) -> jax.Array:
    """[I, N, M], which pairs have both members among the others [N, M]."""
    different = part.number[:, None] != jnp.arange(others.shape[1])[None]
    return part.other[:, :, None] & others[None] & different[:, None, :]


@loss(static=("axis_name",))
def similarity_preserving(
    student_features: jax.Array,
    teacher_features: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Squared difference of the row-normalised similarity matrices of student and teacher (SP).

    $$\frac1b \sum_j \big(\tilde G^s_{ij} - \tilde G^t_{ij}\big)^2, \quad G = X X^\top, \;
    \tilde G_i = G_i / \lVert G_i \rVert$$

    Args:
        student_features: [N, ...], flattened per example.
        teacher_features: [N, ...], a constant: no gradient.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], dimensionless. The mean over examples is the paper's value, the squared Frobenius norm over $b^2$.

    Example:
        Equal for the student, orthogonal for the teacher: rows (1, 1) / root 2 against (1, 0), over 2 examples.

        >>> print(similarity_preserving(jnp.ones((2, 1)), jnp.eye(2)).round(4))
        [0.2929 0.2929]

    References:
        Tung and Mori 2019, arXiv:1907.09682.
    """
    student, teacher, where = _pairs(student_features, teacher_features, where, flatten=True)
    spaces, present, _ = _batch(student, teacher, where, axis_name)
    (ours, all_ours, top), (theirs, all_theirs, their_top) = spaces
    count = jnp.maximum(jnp.sum(present, dtype=ours.dtype), 1)
    columns, their_columns = all_ours / top, all_theirs / their_top

    def mean_square(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        mine, fixed = part
        similarities = unit_vectors(keep(_inner(mine / top, columns)))
        goal = keep(jax.lax.stop_gradient(unit_vectors(_inner(fixed / their_top, their_columns))))
        return jnp.sum(jnp.square(similarities - goal), axis=-1) / count

    return zero_masked(where, map_rows(mean_square, (ours, theirs), len(present)))


@loss(temperature=positive, dataset_size=positive)
def crd(
    student_embeddings: jax.Array,
    teacher_embeddings: jax.Array,
    negatives: jax.Array,
    *,
    dataset_size: float | jax.Array,
    temperature: float | jax.Array = 0.07,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Contrastive representation distillation (CRD): classifies student-teacher pairs as same or different examples.

    $$-\log h(s, t) - \sum_{k=1}^K \log\big(1 - h(s, t_k)\big), \quad
    h(s, t) = \frac{e^{\cos(s, t) / \tau}}{e^{\cos(s, t) / \tau} + K / M}$$

    Args:
        student_embeddings: [N, D], normalised here.
        teacher_embeddings: [N, D], of the same examples, normalised here; a constant: no gradient.
        negatives: [K, D], the teacher's embeddings of other examples, from a memory bank or queue; a constant.
        dataset_size: M, size of the training set.
        temperature: $\tau$, divides the cosines.
        where: [N], boolean; False excludes the example.

    Returns:
        [N], nats per example, at least 0.

    Example:
        One negative, a data set of one, and a student orthogonal to all: two decisions at p = 1/2, 2 log 2.

        >>> student, others = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> print(crd(student, others, others, dataset_size=1).round(4))
        [1.3863]

    Conventions:
        - The authors' code adds the loss with the sides exchanged (teacher as anchor, a bank of student embeddings):
          call it twice. It divides the exponentials by a constant estimated from the first batch, as in Wu et al. 2018,
          and adds 1e-7 to the critic's denominators; the paper does neither.
        - The negatives are summed, not averaged: with K = 16,384 the loss starts in the thousands.

    References:
        Tian et al. 2019, arXiv:1910.10699.
    """
    student, teacher, where = _pairs(student_embeddings, teacher_embeddings, where)
    check_shape("teacher_embeddings", teacher_embeddings, student_embeddings.shape, "of student_embeddings")
    check_rank("negatives", check_array("negatives", negatives), 2, "[negatives, features]")
    check_shape("negatives", negatives, (negatives.shape[0], student.shape[1]), "of the student's features")
    dtype = accumulation_dtype(student, teacher, negatives)
    student, teacher = unit_vectors(student.astype(dtype)), unit_vectors(teacher.astype(dtype))
    bank = jax.lax.stop_gradient(unit_vectors(negatives.astype(dtype)))
    scale = 1 / jnp.asarray(temperature, dtype)
    # h is the sigmoid of the score minus log(K / M).
    offset = jnp.log(max(bank.shape[0], 1) / jnp.asarray(dataset_size, dtype))
    positive_score = jnp.sum(student * jax.lax.stop_gradient(teacher), axis=-1) * scale - offset
    scores = _inner(student, bank) * scale - offset
    return zero_masked(where, jax.nn.softplus(-positive_score) + jnp.sum(jax.nn.softplus(scores), axis=-1))


def _pairs(
    student: jax.Array, teacher: jax.Array, where: jax.Array | None, flatten: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns [N, D] and [N, D'], sanitised, and the mask."""
    kind = "features" if flatten else "embeddings"
    for name, x in ((f"student_{kind}", student), (f"teacher_{kind}", teacher)):
        check_array(name, x)
        if flatten and x.ndim < 2:
            raise ValueError(f"{name} must have an axis of examples and one of features, got shape {x.shape}")
        if not flatten:
            check_rank(name, x, 2, "[examples, features]")
    rows = student.shape[0]
    check_shape(f"teacher_{kind}", teacher, (rows, *teacher.shape[1:]), f"of as many examples as student_{kind}")
    where = check_where(where, (rows,))
    x, y = (x.reshape(rows, math.prod(x.shape[1:])) for x in sanitize(where, student, teacher))
    return x, y, where


Space = tuple[jax.Array, jax.Array, jax.Array]
"""This device's rows, the rows of all devices, and their largest magnitude (1 if all are 0)."""


def _batch(
    student: jax.Array, teacher: jax.Array, where: jax.Array | None, axis_name: AxisName
) -> tuple[tuple[Space, Space], jax.Array, jax.Array]:
    """Both spaces, the mask of all rows, and the indices of this device's rows."""
    rows = student.shape[0]
    present = jnp.ones(rows, bool) if where is None else where
    number = row_numbers(rows, axis_name)

    def space(mine: jax.Array) -> Space:
        everyone = gather_rows(mine, axis_name)
        largest = jax.lax.stop_gradient(jnp.max(jnp.abs(everyone), initial=0))
        return mine, everyone, jnp.where(largest == 0, 1, largest)

    return (space(student), space(teacher)), gather_rows(present, axis_name), number


def _inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """[N, M] inner products of rows."""
    return jnp.einsum("id,jd->ij", a, b, precision=jax.lax.Precision.HIGHEST)


def _distances(
    mine: jax.Array,
    everyone: jax.Array,
    largest: jax.Array,
    present: jax.Array,
    number: jax.Array,
    axis_name: AxisName,
) -> tuple[jax.Array, jax.Array]:
    """Distances [N, M] and their mean over the present pairs (1 if that is 0), without gradient."""
    # Without a gradient, squares are summed as they are computed, and a group may be as large as its results.
    rows, columns = jax.lax.stop_gradient((mine, everyone))
    table = map_rows(lambda part: _lengths(part, columns, largest), rows, len(present))

    def sum_of_row(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        known, mine = part
        return jnp.sum(jnp.where(present[None], _known_lengths(known, mine, everyone, largest), 0), axis=1)

    sums = map_rows(sum_of_row, (table, mine), everyone.size)
    total = jnp.sum(jnp.where(jnp.take(present, number), sums, 0))
    total = total if axis_name is None else jax.lax.psum(total, axis_name)
    count = jnp.sum(present, dtype=table.dtype)
    mean = total / jnp.maximum(count * (count - 1), 1)
    return table, jnp.where(mean == 0, 1, mean)


def _lengths(part: jax.Array, everyone: jax.Array, largest: jax.Array) -> jax.Array:
    """Distances [N, M], divided by the largest entry; gradient 0 at distance 0."""
    # Divided after the difference: equal rows then differ by exactly 0, fused or not.
    squares = jnp.sum(jnp.square((part[:, None] - everyone[None]) / largest), axis=-1)
    together = squares == 0
    return jnp.where(together, 0, jnp.sqrt(jnp.where(together, 1, squares)))


@jax.custom_jvp
def _known_lengths(known: jax.Array, part: jax.Array, everyone: jax.Array, largest: jax.Array) -> jax.Array:
    """`_lengths(part, everyone, largest)` with known values: only derivatives recompute the differences."""
    return known


@_known_lengths.defjvp
def _known_lengths_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    return primals[0], jax.jvp(_lengths, primals[1:], tangents[1:])[1]


def _huber(gaps: jax.Array) -> jax.Array:
    size = jnp.abs(gaps)
    return jnp.where(size <= 1, jnp.square(gaps) / 2, size - 0.5)
