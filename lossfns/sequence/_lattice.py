"""Sums over the monotone paths through a grid, along its antidiagonals."""

import jax
import jax.numpy as jnp

from lossfns._numerics import log_add, row_shift, start_of_scan
from lossfns._present import places


def log_sum_of_paths(*moves: jax.Array) -> jax.Array:
    """Log of the sum over paths from the first to the last cell of a grid of exp of the sum of the moves' weights.

    Args:
        *moves: Log-weights [..., I, J] of entering a cell from above (i - 1, j), from the left (i, j - 1) and, if there
            is a third, from (i - 1, j - 1). Weights of moves from outside of the grid must be -inf.

    Returns:
        [...]; -inf if there is no path. All cells of an antidiagonal are worked out at once, in I + J - 1 steps.
    """
    width = moves[0].shape[-1]

    def shifted(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 0)], constant_values=-jnp.inf)[..., :width]

    def step(carry, inputs):  # type: ignore[no-untyped-def]
        last, last_but_one, total = carry
        sources = (last, shifted(last), shifted(last_but_one))
        cells = log_add(*(source + move for source, move in zip(sources, inputs, strict=False)))
        # A constant taken out of both diagonals keeps the numbers small and so exact; it cancels in the gradient.
        _, top = row_shift(jnp.maximum(cells, last))
        return (cells - top, last - top, total + top[..., 0]), None

    diagonals = tuple(_by_diagonal(move)[1:] for move in moves)
    first = jnp.where(places(width, moves[0].ndim - 1) == 0, 0.0, -jnp.inf).astype(moves[0].dtype)
    first = start_of_scan(jnp.broadcast_to(first, (*moves[0].shape[:-2], width)), *moves)
    carry = first, jnp.full_like(first, -jnp.inf), jnp.zeros_like(first[..., 0])
    (last, _, total), _ = jax.lax.scan(step, carry, diagonals)
    return last[..., -1] + total


def _by_diagonal(x: jax.Array) -> jax.Array:
    """[..., I, J] to [I + J - 1, ..., J], where entry n, j is cell (n - j, j), and -inf outside of the grid."""
    *batch, height, width = x.shape
    x = jnp.pad(jnp.swapaxes(x, -1, -2), [(0, 0)] * (x.ndim - 1) + [(0, width)], constant_values=-jnp.inf)
    # Read with one column fewer, each row starts one place later than the row before.
    x = x.reshape(*batch, width * (height + width))[..., : width * (height + width - 1)]
    return jnp.moveaxis(x.reshape(*batch, width, height + width - 1), -1, 0)
