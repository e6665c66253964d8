"""Norms without overflow or underflow of squares."""

import jax
import jax.numpy as jnp

from train.trees import Tree, widen


def power_of_two(tree: Tree) -> jax.Array:
    """A power of two near the largest entry of a tree, for division without rounding.

    Returns:
        A float32 (or wider) scalar, at most the largest absolute entry and more than half of it; 1 if all entries are 0
        or one of them is not finite.

    >>> print(power_of_two({"a": jnp.array([3.0, -5.0]), "b": jnp.zeros(2)}), power_of_two([]))
    4.0 1.0
    """
    leaves = [widen(x) for x in jax.tree.leaves(tree) if jnp.size(x)]
    if not leaves:
        return jnp.ones(())
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in leaves]))
    ordinary = jnp.isfinite(largest) & (largest > 0)
    exponent = jnp.frexp(jnp.where(ordinary, largest, 1))[1] - 1
    # Beyond these exponents a float32 or its reciprocal is not a normal number.
    return jnp.ldexp(jnp.ones((), largest.dtype), jnp.clip(exponent, -126, 126))


def global_norm(tree: Tree) -> jax.Array:
    """Euclidean norm of all entries of a tree, without overflow or underflow of their squares.

    A plain sum of squares is infinite for an entry of 1e20 and 0 for one of 1e-25.

    Returns:
        A float32 (or wider) scalar; infinite or NaN only if an entry is, or if the norm exceeds its dtype.

    >>> print(global_norm({"a": jnp.array([3e20]), "b": jnp.array([4e20])}), global_norm(jnp.array([3e-25, 4e-25])))
    5e+20 5e-25
    """
    scale = power_of_two(tree)
    squares = [jnp.sum(jnp.square(widen(x) / scale)) for x in jax.tree.leaves(tree)]
    return scale * jnp.sqrt(sum(squares, start=jnp.zeros((), scale.dtype)))
