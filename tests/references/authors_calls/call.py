"""What a comparison with an authors' code is made of, and what that code finds in place of its surroundings."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Code:
    """Pieces of a repository at a commit: file -> names.

    A name is a function, class, constant or method (`Class.method`), or some statements of a function,
    `function: a .. b`: from the first assignment to a up to the last to b in the same block. Called with their inputs
    by keyword, they return b.
    """

    repository: str
    commit: str
    pieces: Mapping[str, Sequence[str]]
    jax: bool = False


@dataclasses.dataclass(frozen=True)
class Call:
    """A case of `tests.cases`, the authors' code for it, inputs, and the same number theirs and ours.

    `theirs` gets the namespace of the pieces first, with torch, nn, F, dist, np, jax and jnp in it.
    """

    row: str
    code: Code
    inputs: Callable[[np.random.Generator], Sequence[Any]]
    theirs: Callable[..., Any]
    ours: Callable[..., Any]
    differentiable: tuple[int, ...] = (0,)
    tolerance: float = 1e-9


def normal(*shapes, scale=1.0):
    """Inputs of normal numbers with few digits."""
    return lambda rng: [(scale * rng.normal(size=shape)).round(3) for shape in shapes]


def log_probs(*shapes, scale=1.0):
    """Inputs of negative numbers with few digits."""
    return lambda rng: [-(scale * rng.gamma(2.0, size=shape)).round(3) - 0.001 for shape in shapes]


def with_labels(classes, *shapes, labels=None):
    """Inputs of normal numbers, and integer labels for the rows of the first, or of the shape given."""

    def make(rng):
        return [*normal(*shapes)(rng), rng.integers(0, classes, labels or shapes[0][:1])]

    return make


def module(**attributes):
    """A stand-in for `self`, `args` and the like."""
    return SimpleNamespace(**attributes)


ONE_DEVICE = module(
    device="cpu",
    num_processes=1,
    process_index=0,
    gather=lambda x: x,
    gather_for_metrics=lambda x: x,
    reduce=lambda x, reduction: x,
)
"""A stand-in for `accelerate`."""


def identity(x):
    return x
