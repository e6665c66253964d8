"""Matrix products in forms that are fast on CPU, and that XLA supports there in half precision."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from lossfns._contract import accumulation_dtype


class Operands(NamedTuple):
    """How the operands of products are rounded, in the backward pass too.

    Attributes:
        dtype: The dtype they are cast to.
        precision: Of float32 products on accelerators, a name of `jax.lax.Precision`.
    """

    dtype: jnp.dtype
    precision: str = "highest"


PRECISIONS = ("highest", "high", "default")


def product(columns: jax.Array, rows: jax.Array, operands: Operands | None = None) -> jax.Array:
    """The scores `columns @ rows` of a block, summed in float32 or wider.

    Args:
        columns: [C, D], the columns of a block.
        rows: [D, N], transposed once by the caller, so that no block has to.
        operands: `exact_operands(...)` of the original inputs is lossless: bfloat16 is multiplied as bfloat16. None
            multiplies in float32 or wider.

    Returns:
        [C, N].
    """
    operands = Operands(accumulation_dtype(columns, rows)) if operands is None else operands
    scores: jax.Array = _product(operands, columns, rows)
    return scores


def exact_operands(*arrays: jax.Array) -> Operands:
    """Lossless operands: in the dtype of the arrays if they share one, else in float32 or wider."""
    dtypes = {jnp.dtype(x.dtype) for x in arrays}
    return Operands(dtypes.pop() if len(dtypes) == 1 else accumulation_dtype(*arrays))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(operands: Operands, columns: jax.Array, rows: jax.Array) -> jax.Array:
    return contract(columns, rows, (1, 0), operands)


def _product_fwd(
    operands: Operands, columns: jax.Array, rows: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(operands, columns, rows), (columns, rows)


def _product_bwd(
    operands: Operands, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    columns, rows = residuals
    d_columns = contract(cotangent, rows, (1, 1), operands)
    # Row-major: otherwise XLA gives the product the layout of a following transpose, which is slow.
    d_rows = row_major(contract(transposed(columns.astype(operands.dtype)), cotangent, (1, 0), operands))
    return d_columns.astype(columns.dtype), d_rows.astype(rows.dtype)


_product.defvjp(_product_fwd, _product_bwd)


def contract(a: jax.Array, b: jax.Array, axes: tuple[int, int], operands: Operands) -> jax.Array:
    """The product of two matrices over one axis of each, summed in float32 or wider."""
    a, b = a.astype(operands.dtype), b.astype(operands.dtype)
    half = jnp.finfo(operands.dtype).bits < 32
    if half and axes[0] == 0:
        a, axes = transposed(a), (1, axes[1])
    out = lax.dot_general(
        a,
        b,
        (((axes[0],), (axes[1],)), ((), ())),
        precision=operands.precision,
        preferred_element_type=accumulation_dtype(a),
    )
    # Half-precision products in column-major layout fail on CPU at run time.
    return row_major(out) if half else out


def row_major(x: jax.Array) -> jax.Array:
    """`x`, in row-major layout on CPU."""
    laid_out: jax.Array = lax.platform_dependent(x, cpu=_constrained, default=_unchanged)
    return laid_out


def _constrained(x: jax.Array) -> jax.Array:
    constrained: jax.Array = with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))
    return constrained


def _unchanged(x: jax.Array) -> jax.Array:
    return x


def transposed(x: jax.Array) -> jax.Array:
    """The transpose of a matrix, copied on CPU: XLA would only relabel the layout, which is slow to read."""
    return row_major(x.T)
