"""Kernels as matrices: their input and output axes, and orthogonalisation."""

import math

import jax
import jax.numpy as jnp

from train.optimizers.norms import power_of_two
from train.trees import widen

_QUINTIC = (3.4445, -4.7750, 2.0315)


def input_axes(shape: tuple[int, ...]) -> int:
    """Number of leading axes of a kernel (of two or more) that are inputs; the others are outputs.

    Assumes Flax's layouts: two axes are [inputs, outputs], four or more are a convolution [..., inputs, outputs], and
    three belong to attention, [width, heads, size] for queries, keys and values or [heads, size, width] for the output.
    Of the two possible splits it takes the one with the more nearly square matrix, and the later one of equals.

    Returns:
        The number of input axes: at least 1, with at least one output axis left.

    >>> input_axes((64, 4, 16)), input_axes((4, 16, 64)), input_axes((3, 3, 8, 32)), input_axes((5, 7))
    (1, 2, 3, 1)
    """
    if len(shape) == 3:
        return min((2, 1), key=lambda cut: math.prod(shape[:cut]) + math.prod(shape[cut:]))
    return len(shape) - 1


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Numbers of inputs and outputs of a kernel of two or more axes.

    >>> matrix_shape((64, 4, 16))
    (64, 64)
    """
    cut = input_axes(shape)
    return math.prod(shape[:cut]), math.prod(shape[cut:])


def unit_frobenius(matrix: jax.Array) -> jax.Array:
    """A matrix divided by its Frobenius norm; 0 stays 0.

    Returns:
        The matrix of norm 1, in at least float32.

    >>> print(unit_frobenius(jnp.array([[3e25, 4e25]])), unit_frobenius(jnp.array([[3e-25, 0.0]])))
    [[0.6 0.8]] [[1. 0.]]
    """
    wide = widen(matrix) / power_of_two(matrix)
    norm = jnp.sqrt(jnp.sum(jnp.square(wide)))
    return wide / jnp.where(norm == 0, 1, norm)


def newton_schulz(matrix: jax.Array) -> jax.Array:
    """Moves the singular values of a matrix near 1, usually between 0.7 and 1.2, and keeps its singular vectors.

    Each of Muon's five steps is X <- P X with P = 3.4445 - 4.7750 A + 2.0315 A^2 and A = X X^T. P and A commute, so the
    next A is P^2 A: only the product of all P is computed, and multiplied with X at the end. Up to rounding the result
    equals the usual form (Jordan et al. 2024), with fewer operations if X is oblong.

    Args:
        matrix: A matrix of Frobenius norm at most 1; singular values below 0.002 stay small.

    >>> print(newton_schulz(jnp.diag(jnp.array([0.9, 0.1]))).round(1))
    [[0.7 0. ]
     [0.  0.7]]
    """
    if matrix.shape[0] > matrix.shape[1]:
        return newton_schulz(matrix.T).T
    # Rounding can give A small negative eigenvalues, which the steps enlarge: harmless in float32, but not in lower
    # precision.
    wide = widen(matrix)
    with jax.default_matmul_precision("highest"):
        gram = wide @ wide.T
        one = product = jnp.eye(len(gram), dtype=gram.dtype)
        for _ in range(5):
            factor = _QUINTIC[0] * one + _QUINTIC[1] * gram + _QUINTIC[2] * (gram @ gram)
            product, gram = factor @ product, factor @ (factor @ gram)
        return (product @ wide).astype(matrix.dtype)
