"""Sums over the monotone paths through a grid, along its antidiagonals.

Cell (i, j) lies on antidiagonal i + j. For each j these are I consecutive numbers, so modulo I they fill a table [I, J]
without gaps: antidiagonals are read and written as rows of that table.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lossfns._numerics import log_add, row_shift, vary_like

Moves = Callable[[Any, Any, Any], tuple[jax.Array, ...]]
"""`moves(tables, rows, columns)`: log-weights of entering a cell from (i - 1, j), from (i, j - 1) and optionally from
(i - 1, j - 1), given the data of the cell, its row and its column."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def log_sum_of_paths(moves: Moves, tables: Any, rows: Any, columns: Any) -> jax.Array:
    """Log-sum-exp, over paths from the first to the last cell of a grid, of the sum of the moves' weights.

    Its derivative is the expected number of each move into each cell, by one forward and one backward pass.

    Args:
        moves: Called with all cells of an antidiagonal, or of the grid. Moves from outside the grid must have weight
            -inf.
        tables: Pytree of floats [I, ..., J], rows first.
        rows: Pytree of integers or booleans [..., I].
        columns: Pytree of integers or booleans [..., J].

    Returns:
        [...]; -inf if there is no path. All cells of an antidiagonal are computed at once, in I + J - 1 steps.
    """
    grid = _Grid(moves, tables, rows, columns)

    def step(state, n):  # type: ignore[no-untyped-def]
        return grid.step(state, n)[0], None

    return _end(jax.lax.scan(step, grid.start(), grid.numbers)[0])


@log_sum_of_paths.defjvp
def _log_sum_of_paths_jvp(moves, primals, tangents):  # type: ignore[no-untyped-def]
    value, grads = _value_and_gradients(moves, *primals)
    pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(tangents[0]), strict=True)
    return value, sum(jnp.sum(grad * tangent, axis=(0, -1)) for grad, tangent in pairs)


class _State(NamedTuple):
    """Log-sums of two antidiagonals minus an offset, to keep numbers small, and the offset."""

    last: jax.Array
    last_but_one: jax.Array
    total: jax.Array


def _end(state: _State) -> jax.Array:
    return state.last[..., -1] + state.total


class _Grid(NamedTuple):
    moves: Moves
    tables: Any
    rows: Any
    columns: Any

    @property
    def one(self) -> jax.Array:
        out: jax.Array = jax.tree.leaves(self.tables)[0]
        return out

    @property
    def numbers(self) -> jax.Array:
        """Numbers of the antidiagonals after the first cell."""
        return jnp.arange(1, len(self.one) + self.one.shape[-1] - 1)

    def blank(self, value: jax.Array) -> jax.Array:
        """An array of `value`, as the start of a scan."""
        return vary_like(value, *jax.tree.leaves((self.tables, self.rows, self.columns)))

    def start(self) -> _State:
        shape, dtype = self.one.shape[1:], self.one.dtype
        first = jnp.where(jnp.arange(shape[-1]) == 0, 0.0, -jnp.inf).astype(dtype)
        first = self.blank(jnp.broadcast_to(first, shape))
        return _State(first, jnp.full_like(first, -jnp.inf), jnp.zeros_like(first[..., 0]))

    def inside(self, n: jax.Array) -> jax.Array:
        """Mask of the columns that antidiagonal n crosses."""
        row = n - jnp.arange(self.one.shape[-1])
        return ((row >= 0) & (row < len(self.one))).reshape((1,) * (self.one.ndim - 2) + (-1,))

    def get(self, turned: jax.Array, n: jax.Array) -> jax.Array:
        """Antidiagonal n of a skewed table with flat rows."""
        out: jax.Array = jax.lax.dynamic_index_in_dim(turned, n % len(turned), 0, keepdims=False).reshape(
            self.one.shape[1:]
        )
        return out

    def set(self, turned: jax.Array, n: jax.Array, cells: jax.Array) -> jax.Array:
        """The skewed table with new cells on antidiagonal n."""
        cells = jnp.where(self.inside(n), cells, self.get(turned, n)).ravel()
        out: jax.Array = jax.lax.dynamic_update_index_in_dim(turned, cells, n % len(turned), 0)
        return out

    def weights(self, n: jax.Array) -> tuple[Any, Callable[[Any], tuple[jax.Array, ...]]]:
        """The tables' cells on antidiagonal n, and the weights of the moves into them as a function of these."""
        row = jnp.clip(n - jnp.arange(self.one.shape[-1]), 0, len(self.one) - 1)
        rows = jax.tree.map(lambda x: jnp.take(x, row, axis=-1, mode="clip"), self.rows)
        parts = jax.tree.map(lambda x: _take(x, row), self.tables)
        return parts, lambda parts: self.moves(parts, rows, self.columns)

    def ways(self, last: jax.Array, last_but_one: jax.Array, weights: tuple[jax.Array, ...]) -> list[jax.Array]:
        """Log-sums into each cell by each move."""
        sources = last, _right(last, -jnp.inf), _right(last_but_one, -jnp.inf)
        return [source + weight for source, weight in zip(sources, weights, strict=False)]

    def step(self, state: _State, n: jax.Array) -> tuple[_State, jax.Array]:
        """The state at the next antidiagonal, and the subtracted offset."""
        parts, weights = self.weights(n)
        cells = log_add(*self.ways(state.last, state.last_but_one, weights(parts)))
        cells = jnp.where(self.inside(n), cells, -jnp.inf)
        _, top = row_shift(jnp.maximum(cells, state.last))
        # The offset cancels in the gradient.
        return _State(cells - top, state.last - top, state.total + top[..., 0]), top


def _value_and_gradients(moves: Moves, tables: Any, rows: Any, columns: Any) -> tuple[jax.Array, Any]:
    """Cuturi and Blondel's algorithm 2, for any moves. The backward pass overwrites the log-sums by gradients."""
    grid = _Grid(moves, tables, rows, columns)
    start = grid.start()
    log_sums = grid.set(grid.blank(_flat(jnp.full_like(grid.one, -jnp.inf))), jnp.int32(0), start.last)

    def forward(carry, n):  # type: ignore[no-untyped-def]
        state, log_sums = carry
        state, top = grid.step(state, n)
        return (state, grid.set(log_sums, n, state.last)), top

    (state, log_sums), tops = jax.lax.scan(forward, (start, log_sums), grid.numbers)

    def backward(carry, inputs):  # type: ignore[no-untyped-def]
        here, before, turned = carry
        n, top = inputs
        last, last_but_one = (jnp.where(grid.inside(m), grid.get(turned[0], m), -jnp.inf) for m in (n - 1, n - 2))
        parts, weights_of = grid.weights(n)
        weights, pull_back = jax.vjp(weights_of, parts)
        shares = _softmax(grid.ways(last, last_but_one - top, weights))
        entered = tuple(jnp.where(grid.inside(n), here * share, 0) for share in shares)
        grads = jax.tree.leaves(pull_back(entered)[0])
        turned = [grid.set(x, n, grad) for x, grad in zip(turned, grads, strict=True)]
        down, right, *diagonal = entered
        return (before + down + _left(right), sum(map(_left, diagonal), jnp.zeros_like(down)), turned), None

    value = _end(state)
    reached = (value > -jnp.inf).astype(grid.one.dtype)
    here = jnp.zeros_like(start.last).at[..., -1].set(reached)
    # The offset between the last two antidiagonals; no diagonal move comes from before the first.
    tops = jnp.concatenate([jnp.zeros_like(tops[:1]), tops])[:-1]
    turned = [log_sums, *(grid.blank(_flat(jnp.zeros_like(x))) for x in jax.tree.leaves(tables)[1:])]
    carry = here, jnp.zeros_like(here), turned
    (_, _, turned), _ = jax.lax.scan(backward, carry, (grid.numbers, tops), reverse=True)
    grads = [grid.set(x, jnp.int32(0), jnp.zeros_like(here)) for x in turned]  # no move enters the first cell
    upright = [_upright(x, grid.one.shape) for x in grads]
    return value, jax.tree.unflatten(jax.tree.structure(tables), upright)


def _softmax(ways: list[jax.Array]) -> list[jax.Array]:
    """Softmax over a few arrays, entry by entry; 0 where all are -inf.

    By division: through the logarithm of their sum they would add up to 1 only as accurately as that sum.
    """
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, ways))
    parts = [jnp.exp(way - jnp.where(top == -jnp.inf, 0, top)) for way in ways]
    total = functools.reduce(jnp.add, parts)
    return [part / jnp.where(total == 0, 1, total) for part in parts]


def _right(x: jax.Array, fill: float) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 0)], constant_values=fill)[..., :-1]


def _left(x: jax.Array) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 1)])[..., 1:]


def _flat(x: jax.Array) -> jax.Array:
    """With flat rows, for which XLA has only one layout; otherwise it copies the array into another one."""
    return x.reshape(len(x), -1)


def _take(x: jax.Array, row: jax.Array) -> jax.Array:
    """[..., J], the entry of each column of [I, ..., J] in its row of [J]."""
    row = jnp.broadcast_to(row.reshape((1,) * (x.ndim - 1) + (-1,)), (1, *x.shape[1:]))
    return jnp.take_along_axis(_flat(x), _flat(row), axis=0, mode="clip").reshape(x.shape[1:])


def _upright(turned: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Undoes the skew of a table, row by row: at once it would take a table of indices, or several copies."""
    table, column = turned.reshape(shape), jnp.arange(shape[-1])
    out: jax.Array = jax.lax.map(
        lambda n: _take(table, (n + column) % len(table)).ravel(), jnp.arange(len(table))
    ).reshape(shape)
    return out
