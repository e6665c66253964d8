"""Statistics of the global batch, over the present rows of all devices."""

from typing import Any

import jax
import jax.numpy as jnp

from lossfns._contract import AxisName, keep_rows, zero_masked


def total(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """The sum over devices."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def count_present(where: jax.Array | None, x: jax.Array, axis_name: AxisName) -> jax.Array:
    """Number of present rows on all devices, in the dtype of `x`."""
    here = jnp.asarray(x.shape[0], x.dtype) if where is None else jnp.sum(where, dtype=x.dtype)
    return total(here, axis_name)


def largest(x: jax.Array, where: jax.Array | None, axis_name: AxisName) -> jax.Array:
    """[1, D], the largest present entry of each column; 0 where infinite or empty; no gradient."""
    top = jnp.max(jax.lax.stop_gradient(keep_rows(where, x, -jnp.inf)), axis=0, keepdims=True, initial=-jnp.inf)
    top = top if axis_name is None else jax.lax.pmax(top, axis_name)
    return jnp.where(jnp.isinf(top), 0, top)


def centered(x: jax.Array, where: jax.Array | None, count: jax.Array, axis_name: AxisName) -> jax.Array:
    """Rows minus their mean over the global batch; 0 at absent rows.

    An entry of the column is subtracted first: the mean of equal rows is then exact, and a common offset costs no
    precision.
    """
    x = keep_rows(where, x - largest(x, where, axis_name))
    mean = total(jnp.sum(x, axis=0, keepdims=True), axis_name) / jnp.maximum(count, 1)
    return keep_rows(where, x - mean)


def log_sum_rows(x: jax.Array, where: jax.Array | None, axis_name: AxisName) -> jax.Array:
    """[1, D], log-sum-exp of each column over present rows; -inf if there are none."""
    shift = largest(x, where, axis_name)
    summed = total(jnp.sum(jnp.exp(keep_rows(where, x, -jnp.inf) - shift), axis=0, keepdims=True), axis_name)
    nothing = summed == 0
    return jnp.where(nothing, -jnp.inf, jnp.log(jnp.where(nothing, 1, summed)) + shift)


def cross_covariance(a: jax.Array, b: jax.Array, axis_name: AxisName) -> jax.Array:
    """a^T b, [D, D], summed over the rows of the global batch."""
    return total(jnp.einsum("nd,ne->de", a, b, precision=jax.lax.Precision.HIGHEST), axis_name)


def broadcast_to_rows(value: jax.Array, x: jax.Array, where: jax.Array | None) -> jax.Array:
    """A scalar of the whole batch, broadcast to the present rows of `x`."""
    # Rows vary over devices, and under `shard_map` the result must too. Both branches are equal, so the compiler drops
    # the choice.
    return zero_masked(where, jnp.where(x[:, 0] == 0, value, value))


def row_numbers(count: int, axis_name: AxisName) -> jax.Array:
    """Global numbers of this device's rows."""
    first = jnp.int32(0) if axis_name is None else jax.lax.axis_index(axis_name) * count
    return first + jnp.arange(count)


def gather_rows(tree: Any, axis_name: AxisName) -> Any:
    """The rows of all devices, in device order."""
    return tree if axis_name is None else jax.lax.all_gather(tree, axis_name, axis=0, tiled=True)
