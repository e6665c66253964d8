"""Kernels seen as matrices: which of their axes are inputs and which are outputs, and how to make one orthogonal."""

import math

import jax
import jax.numpy as jnp

from train.optimizers.norms import power_of_two
from train.trees import widen

_QUINTIC = (3.4445, -4.7750, 2.0315)


def input_axes(shape: tuple[int, ...]) -> int:
    """How many leading axes of a kernel count as its inputs; the rest are its outputs.

    Flax's layouts are taken for granted: a kernel of two axes is [inputs, outputs], one of four or more is a
    convolution's [..., inputs, outputs], and one of three belongs to attention, [width, heads, size] for queries, keys
    and values or [heads, size, width] for the output. Of its two cuts the one is taken that makes the matrix the most
    nearly square, and the later one if they tie.

    Args:
        shape: Of the kernel, with two or more axes.

    Returns:
        The number of leading axes, from 1 up to one less than there are.

    Example:
        >>> input_axes((64, 4, 16)), input_axes((4, 16, 64)), input_axes((3, 3, 8, 32)), input_axes((5, 7))
        (1, 2, 3, 1)
    """
    if len(shape) == 3:
        return min((2, 1), key=lambda cut: math.prod(shape[:cut]) + math.prod(shape[cut:]))
    return len(shape) - 1


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs and outputs of a kernel, each as one number.

    Args:
        shape: Of the kernel, with two or more axes.

    Returns:
        `(inputs, outputs)`, whose product is the size of the kernel.

    Example:
        >>> matrix_shape((64, 4, 16))
        (64, 64)
    """
    cut = input_axes(shape)
    return math.prod(shape[:cut]), math.prod(shape[cut:])


def unit_frobenius(matrix: jax.Array) -> jax.Array:
    """A matrix over its Frobenius norm, whatever its size; 0 stays 0.

    Args:
        matrix: Of any shape; for norms that no float32 number has the square of, too.

    Returns:
        The matrix of norm 1, in at least float32.

    Example:
        >>> print(unit_frobenius(jnp.array([[3e25, 4e25]])), unit_frobenius(jnp.array([[3e-25, 0.0]])))
        [[0.6 0.8]] [[1. 0.]]
    """
    wide = widen(matrix) / power_of_two(matrix)
    norm = jnp.sqrt(jnp.sum(jnp.square(wide)))
    return wide / jnp.where(norm == 0, 1, norm)


def newton_schulz(matrix: jax.Array) -> jax.Array:
    """Moves the singular values of a matrix near 1, as a rule to between 0.7 and 1.2, and keeps its singular vectors.

    Each of Muon's five steps is X <- P X with P = 3.4445 - 4.7750 A + 2.0315 A^2 and A = X X^T. P and A commute, so the
    next A is P^2 A: only the product of all P is carried along, and X is multiplied once, at the end. Up to rounding
    these are the numbers of the usual form (Jordan et al. 2024), with fewer operations where X is oblong.

    Args:
        matrix: Two axes, of Frobenius norm 1 at most; what is below 0.002 of it stays small.

    Returns:
        A matrix of the same shape and type.

    Example:
        >>> print(newton_schulz(jnp.diag(jnp.array([0.9, 0.1]))).round(1))
        [[0.7 0. ]
         [0.  0.7]]
    """
    if matrix.shape[0] > matrix.shape[1]:
        return newton_schulz(matrix.T).T
    # Rounding can give A small negative eigenvalues, which the steps enlarge: harmless in float32, not in less.
    wide = widen(matrix)
    with jax.default_matmul_precision("highest"):
        gram = wide @ wide.T
        one = product = jnp.eye(len(gram), dtype=gram.dtype)
        for _ in range(5):
            factor = _QUINTIC[0] * one + _QUINTIC[1] * gram + _QUINTIC[2] * (gram @ gram)
            product, gram = factor @ product, factor @ (factor @ gram)
        return (product @ wide).astype(matrix.dtype)
