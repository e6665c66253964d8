"""Supervised contrastive learning: all other examples of the class are positives."""

import jax
import jax.numpy as jnp

from lossfns._blockwise import LogSum, Sum, product, stream
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
from lossfns._global_batch import gather_rows, row_numbers
from lossfns.contrastive._shared import Embeddings, normalize_rows, valid_pairs


@loss(
    static=("form", "axis_name", "block_size"),
    temperature=positive,
    base_temperature=positive,
    form=one_of("out", "in"),
    block_size=optional_size,
)
def supcon(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    form: str = "out",
    temperature: float | jax.Array = 0.1,
    base_temperature: float | jax.Array | None = None,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Supervised contrastive learning (SupCon): all other examples of an anchor's class are its positives.

    With $s_{ia}$ the cosines over the temperature, $A(i)$ all examples but $i$ and $P(i)$ its class in $A(i)$, the
    value of anchor i is

    $$\text{out: } \frac{-1}{|P(i)|} \sum_{p \in P(i)} \log \frac{e^{s_{ip}}}{\sum_{a \in A(i)} e^{s_{ia}}}
    \qquad \text{in: } -\log \frac{1}{|P(i)|} \sum_{p \in P(i)} \frac{e^{s_{ip}}}{\sum_{a \in A(i)} e^{s_{ia}}}$$

    and 0 for an anchor without a positive. The [N, N] scores are never materialised.

    Args:
        embeddings: [N, D]; normalised here. Views of one example are rows with the same label.
        labels: [N], integers of any value; equal labels are one class.
        form: "out", the mean outside the logarithm and the paper's choice, or "in".
        temperature: Divides the cosines.
        base_temperature: If given, multiplies the value by `temperature / base_temperature` as the authors do.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch.
        block_size: Examples per block; None chooses.

    Returns:
        [N], nats per anchor; 0 at anchors without a positive.

    Example:
        Two identical examples of a class, a third orthogonal: the two cost log(1 + 1/e) at temperature 1; the third has
        no positive.

        >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> print([f"{x:.4f}" for x in supcon(embeddings, jnp.array([7, 7, 8]), temperature=1.0)])
        ['0.3133', '0.3133', '0.0000']

    Conventions:
        "out" is at least "in" (Jensen) and better in the paper. The default temperature is the paper's; the authors'
        code has 0.07 and multiplies by temperature over base temperature, 1 unless one of them is changed.
        An anchor without a positive is NaN in the formula and in their first code, 0 here and in their current code,
        which counts it in the mean. To exclude it, weight rows by whether their label occurs twice. With one positive
        per anchor both forms are `nt_xent`.

    References:
        Khosla et al. 2020, arXiv:2004.11362.
    """
    check_array("embeddings", embeddings)
    check_array("labels", labels, "integer")
    check_rank("embeddings", embeddings, 2, "[examples, features]")
    check_shape("labels", labels, embeddings.shape[:1], f"of embeddings {embeddings.shape}")
    where = check_where(where, labels.shape)
    count, dtype = embeddings.shape[0], accumulation_dtype(embeddings)
    if count == 0:
        return jnp.zeros(0, dtype)
    tau = as_scalar(temperature, dtype)
    vectors = normalize_rows(where, embeddings, dtype) * jax.lax.rsqrt(tau)
    here = Embeddings(vectors, row_numbers(count, axis_name), where, keep_rows(where, labels))
    block = _positives_outside if form == "out" else _positives_inside
    everyone = gather_rows(here, axis_name)
    log_sums, of_positives, number = stream(block, here.as_rows, everyone, block_size=block_size, bound=1 / tau)
    has_positive = number > 0
    number = jnp.maximum(number, 1)
    if form == "out":
        values = jnp.where(has_positive, log_sums, 0) - of_positives / number
    else:
        values = jnp.where(has_positive, log_sums, 0) - jnp.where(has_positive, of_positives, 0) + jnp.log(number)
    if base_temperature is not None:
        values *= tau / as_scalar(base_temperature, dtype)
    return zero_masked(where, values)


def _scores(rows: Embeddings, columns: Embeddings) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores, and the masks of other examples and of positives."""
    assert columns.label is not None
    assert rows.label is not None
    others = valid_pairs(rows, columns, columns.pair[:, None] != rows.pair[None])
    return product(columns.vectors, rows.vectors), others, others & (columns.label[:, None] == rows.label[None])


def _positives_outside(rows: Embeddings, columns: Embeddings, index: jax.Array) -> tuple[LogSum, Sum, Sum]:
    scores, others, positives = _scores(rows, columns)
    score = Sum(jnp.where(positives, scores, 0))
    return LogSum(jnp.where(others, scores, -jnp.inf)), score, Sum(positives.astype(scores.dtype))


def _positives_inside(rows: Embeddings, columns: Embeddings, index: jax.Array) -> tuple[LogSum, LogSum, Sum]:
    scores, others, positives = _scores(rows, columns)
    masked = LogSum(jnp.where(others, scores, -jnp.inf)), LogSum(jnp.where(positives, scores, -jnp.inf))
    return *masked, Sum(positives.astype(scores.dtype))
