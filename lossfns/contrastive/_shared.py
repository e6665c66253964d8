"""Scores of all pairs of the global batch, and masks of the negatives."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lossfns._blockwise import LogSum, product
from lossfns._contract import AxisName, check_array, check_rank, check_shape, keep_rows
from lossfns._global_batch import row_numbers
from lossfns._numerics import unit_vectors


class Embeddings(NamedTuple):
    """Embeddings to compare, as rows of a table of scores (transposed, [D, N]) or as its columns [M, D]."""

    vectors: jax.Array
    pair: jax.Array
    """The index of each embedding's example."""
    present: jax.Array | None = None
    """None for all."""
    label: jax.Array | None = None

    @property
    def as_rows(self) -> "Embeddings":
        return self._replace(vectors=self.vectors.T)


def valid_pairs(rows: Embeddings, columns: Embeddings, counts: jax.Array) -> jax.Array:
    """The mask [M, N], restricted to rows and columns that are present."""
    if columns.present is not None:
        counts &= columns.present[:, None]
    return counts if rows.present is None else counts & rows.present[None]


def negatives(rows: Embeddings, columns: Embeddings) -> jax.Array:
    """Scores [M, N] of different examples; -inf for the same example and absent ones."""
    counts = valid_pairs(rows, columns, columns.pair[:, None] != rows.pair[None])
    return jnp.where(counts, product(columns.vectors, rows.vectors), -jnp.inf)


def log_sum_of_negatives(rows: Embeddings, columns: Embeddings, index: jax.Array) -> LogSum:
    """A block of `negatives`, for `stream`."""
    return LogSum(negatives(rows, columns))


def against_negatives(log_sum: jax.Array, positive: jax.Array) -> jax.Array:
    """log(e^p + sum of e^n) - p from a positive p and the log-sum of its negatives n; 0 without negatives.

    As log(1 + e^(log_sum - p)) it is accurate where the positive wins, and never negative.
    """
    return jax.nn.softplus(log_sum - positive)


def check_embeddings(name: str, value: Any, other_name: str, other: Any) -> None:
    """Raises unless both are [pairs, features] of one shape."""
    check_array(name, value)
    check_array(other_name, other)
    check_rank(name, value, 2, "[pairs, features]")
    check_shape(other_name, other, value.shape, f"of {name}")


def normalize_rows(where: jax.Array | None, x: jax.Array, dtype: Any) -> jax.Array:
    """Unit vectors; zero in masked rows."""
    return unit_vectors(keep_rows(where, x).astype(dtype))


def paired_sides(
    a: jax.Array, b: jax.Array, where: jax.Array | None, axis_name: AxisName
) -> tuple[Embeddings, Embeddings]:
    """Both kinds of embeddings, with row numbers in the batch of all devices."""
    pair = row_numbers(a.shape[0], axis_name)
    return Embeddings(a, pair, where), Embeddings(b, pair, where)


def max_norm(vectors: jax.Array) -> jax.Array:
    """The largest norm of the rows, for a Cauchy-Schwarz bound on inner products; no gradient."""
    return jnp.sqrt(jnp.max(jnp.sum(jnp.square(jax.lax.stop_gradient(vectors)), axis=-1)))


def row_dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """The inner product of each row with its partner."""
    return jnp.sum(a * b, axis=-1)
