"""Exact solvers for matrices of a few rows inside the compiled step: quadratic programs and eigenvectors."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def exact_products(function: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a function with matrix products in full precision, which is not the default on accelerators."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped


@exact_products
def nonnegative_minimum(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    r"""$\arg\min_{x \ge 0} \tfrac12 x^\top Q x - b^\top x$, by an active-set method.

    All entries on the wrong side are exchanged together; when this no longer lowers their number, only the last one,
    which terminates for every positive definite Q (Murty's rule).

    Args:
        matrix: Q [T, T], positive definite, with a diagonal near 1.
        vector: b [T].

    Returns:
        x [T], non-negative.

    References:
        Portugal et al. 1994, A comparison of block pivoting and interior-point algorithms for linear least squares
        problems with nonnegative variables, Mathematics of Computation 63. Murty 1974.

    >>> print(nonnegative_minimum(jnp.eye(2), jnp.array([3.0, -1.0])))
    [3. 0.]
    """
    size = len(vector)
    slack = 4 * size * jnp.finfo(matrix.dtype).eps

    def solve(free: jax.Array) -> tuple[jax.Array, jax.Array]:
        both = free[:, None] & free[None]
        x = jnp.linalg.solve(jnp.where(both, matrix, jnp.eye(size, dtype=matrix.dtype)), jnp.where(free, vector, 0))
        gradient = matrix @ x - vector
        return x, jnp.where(free, x, gradient) < -slack * (1 + jnp.max(jnp.abs(x)))

    def exchange(carry: Any) -> Any:
        count, free, _, wrong, fewest, patience = carry
        number = jnp.sum(wrong)
        fewer = number < fewest
        patience = jnp.where(fewer, 3, patience - 1)
        last = jnp.arange(size) == jnp.max(jnp.where(wrong, jnp.arange(size), -1))
        free = free ^ jnp.where(patience > 0, wrong, last)
        return count + 1, free, *solve(free), jnp.where(fewer, number, fewest), patience

    def is_unsolved(carry: tuple[Any, ...]) -> Any:
        count, _, _, wrong, _, _ = carry
        return (count < 20 * size) & jnp.any(wrong)

    free = vector > 0
    return jnp.maximum(jax.lax.while_loop(is_unsolved, exchange, (0, free, *solve(free), size + 1, 3))[2], 0)


@exact_products
def graded_eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues and eigenvectors of a positive definite matrix [T, T] with high relative accuracy.

    Jacobi's rotations. For a matrix D A D with diagonal D and a well-conditioned A of unit diagonal, small eigenvalues
    and small entries of eigenvectors are as accurate as large ones; `jnp.linalg.eigh` loses everything below its
    rounding error of the largest.

    Returns:
        Unordered eigenvalues [T], and eigenvectors as columns of [T, T].

    References:
        Demmel and Veselic 1992, Jacobi's method is more accurate than QR, SIAM J. Matrix Anal. Appl. 13.

    >>> print(graded_eigh(jnp.array([[1e12, 0.0], [0.0, 1.0]]))[0])
    [1.e+12 1.e+00]
    """
    size = len(matrix)
    rounds = jnp.asarray(_disjoint_pairs(size))
    eye = jnp.eye(size, dtype=matrix.dtype)

    def rotate(carry: Any, pairs: jax.Array) -> tuple[Any, None]:
        g, vectors = carry
        p, q = pairs[:, 0], pairs[:, 1]
        off, spread = g[p, q], g[q, q] - g[p, p]
        tau = spread / jnp.where(off == 0, 1, 2 * off)
        tangent = jnp.where(tau < 0, -1, 1) / (jnp.abs(tau) + jnp.hypot(1.0, tau))
        tangent = jnp.where((off == 0) | (p == q), 0, tangent).astype(g.dtype)
        cosine = jax.lax.rsqrt(1 + tangent**2)
        sine = tangent * cosine
        turn = eye.at[p, p].set(cosine).at[q, q].set(cosine).at[p, q].add(sine).at[q, p].add(-sine)
        g = turn.T @ (g @ turn)
        return ((g + g.T) / 2, vectors @ turn), None

    def sweep(carry: Any) -> Any:
        count, g, vectors = carry
        return count + 1, *jax.lax.scan(rotate, (g, vectors), rounds)[0]

    def is_unfinished(carry: tuple[Any, ...]) -> Any:
        count, g, _ = carry
        root = jnp.sqrt(jnp.maximum(jnp.diagonal(g), 0))
        off = jnp.where(eye == 1, 0, jnp.abs(g))
        return (count < 15) & jnp.any(off > 4 * jnp.finfo(g.dtype).eps * root[:, None] * root[None])

    _, g, vectors = jax.lax.while_loop(is_unfinished, sweep, (0, matrix, eye))
    return jnp.diagonal(g), vectors


def _disjoint_pairs(size: int) -> np.ndarray:
    """Rounds [R, P, 2] of disjoint pairs that contain each pair of rows once; (i, i) is idle."""
    even = size + size % 2
    players = list(range(even))
    rounds = []
    for _ in range(max(even - 1, 1)):
        pairs = [tuple(sorted((players[i], players[-1 - i]))) for i in range(even // 2)]
        # With an odd number of rows, one is paired with itself.
        rounds.append([(p, p) if q >= size else (p, q) for p, q in pairs])
        players = [players[0], players[-1], *players[1:-1]]
    return np.array(rounds)
