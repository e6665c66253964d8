"""Matrix products in the forms that are fast, and that run."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from lossfns._contract import accumulation_dtype


def product(part: jax.Array, rows: jax.Array, dtype: Any = None) -> jax.Array:
    """The matrix product of columns [C, D] and transposed rows [D, N], summed in float32 or wider, [C, N].

    Args:
        part: [C, D], the columns of a block.
        rows: [D, N]. Transposed once by the caller, so that no pass over the blocks need do so.
        dtype: Operands are rounded to it, in the backward pass too. Give `narrow(...)` of the inputs as they came in:
            what was bfloat16 is multiplied as such. None multiplies in the dtype that comes.
    """
    return _product(jnp.dtype(accumulation_dtype(part, rows) if dtype is None else dtype), part, rows)


def narrow(*arrays: jax.Array) -> jnp.dtype:
    """The dtype for operands that loses nothing: bfloat16 or float16 if all are, else that of the accumulation."""
    dtypes = {jnp.dtype(x.dtype) for x in arrays}
    return dtypes.pop() if len(dtypes) == 1 else accumulation_dtype(*arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(dtype: Any, part: jax.Array, rows: jax.Array) -> jax.Array:
    return contract(part, rows, (1, 0), dtype)


def _product_fwd(dtype: Any, part: jax.Array, rows: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(dtype, part, rows), (part, rows)


def _product_bwd(dtype: Any, residuals: Any, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    part, rows = residuals
    d_part = contract(slope, rows, (1, 1), dtype)
    # Pinned to rows, or a transpose that follows becomes XLA's layout of the product, which is slow.
    d_rows = by_rows(contract(transposed(part.astype(dtype)), slope, (1, 0), dtype))
    return d_part.astype(part.dtype), d_rows.astype(rows.dtype)


_product.defvjp(_product_fwd, _product_bwd)


def contract(a: jax.Array, b: jax.Array, axes: tuple[int, int], dtype: Any) -> jax.Array:
    """The product of two matrices over one axis of each, operands rounded to `dtype`, summed in float32 or wider."""
    a, b = a.astype(dtype), b.astype(dtype)
    half = jnp.finfo(dtype).bits < 32
    if half and axes[0] == 0:
        a, axes = transposed(a), (1, axes[1])
    out = lax.dot_general(
        a,
        b,
        (((axes[0],), (axes[1],)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=accumulation_dtype(a),
    )
    # Half-precision products whose result XLA lays out by columns fail on CPU when they are run.
    return by_rows(out) if half else out


def by_rows(x: jax.Array) -> jax.Array:
    """`x`, on CPU laid out in memory by rows."""
    return lax.platform_dependent(x, cpu=_laid_out, default=_as_is)


def _laid_out(x: jax.Array) -> jax.Array:
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def _as_is(x: jax.Array) -> jax.Array:
    return x


def transposed(x: jax.Array) -> jax.Array:
    """The transpose of a matrix, on CPU moved in memory, where XLA would call it another layout of the same, slowly."""
    return by_rows(x.T)
