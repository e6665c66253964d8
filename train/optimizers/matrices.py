"""Kernels of more than two axes seen as matrices: which axes are inputs and which are outputs."""

import math


def input_axes(shape: tuple[int, ...]) -> int:
    """How many leading axes of a kernel count as its inputs; the rest are its outputs.

    Flax's layouts are taken for granted: a kernel of two axes is [inputs, outputs], one of four or more is a
    convolution's [..., inputs, outputs], and one of three belongs to attention, [width, heads, size] for queries, keys
    and values or [heads, size, width] for the output. Of its two cuts the one is taken that makes the matrix the most
    nearly square, and the later one if they tie.

    Args:
      shape: of the kernel, with two or more axes.

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
      shape: of the kernel, with two or more axes.

    Returns:
      `(inputs, outputs)`, whose product is the size of the kernel.

    Example:
      >>> matrix_shape((64, 4, 16))
      (64, 64)
    """
    cut = input_axes(shape)
    return math.prod(shape[:cut]), math.prod(shape[cut:])
