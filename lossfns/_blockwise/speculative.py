"""Gradients made in the forward pass."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._blockwise.trees import Blocks, expand, is_half, set_at, vary_alike


def speculate(value: Any, value_and_gradient: Any, gradient: Any, expected: Any, arguments: Any) -> Any:
    """A function whose gradient is made with its value, for cotangents foreseen; for others it is made when they come.

    Args:
        value: `value(*arguments)`.
        value_and_gradient: `value_and_gradient(arguments, expected)` returns the value and the gradient for these
            cotangents, in the structure of `arguments`, None at integers.
        gradient: `gradient(arguments, cotangents, start, active)` adds the gradient for any cotangents to `start`, or
            returns that as it is if `active` is False: by loops of so many or no steps, as they work in place. Both
            None: the gradient, in operations that have derivatives.
        expected: One for each leaf of the value. The gradient in hand is scaled if the cotangents are a multiple of it.
        arguments: What is differentiated.
    """
    return _speculate(value, value_and_gradient, gradient, expected, arguments)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _speculate(value: Any, value_and_gradient: Any, gradient: Any, expected: Any, arguments: Any) -> Any:
    return value(*arguments)


def _speculate_fwd(value: Any, value_and_gradient: Any, gradient: Any, expected: Any, arguments: Any) -> Any:
    result, slopes = _both(value_and_gradient, gradient, expected, arguments)
    return result, (expected, arguments, slopes)


def _speculate_bwd(value: Any, value_and_gradient: Any, gradient: Any, residuals: Any, cotangents: Any) -> Any:
    return None, _scaled_or_made(gradient, *residuals, cotangents)


_speculate.defvjp(_speculate_fwd, _speculate_bwd)


# Second derivatives go by the value's own rule and by the gradient made anew: that in hand is right in number only.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _both(value_and_gradient: Any, gradient: Any, expected: Any, arguments: Any) -> Any:
    return value_and_gradient(arguments, expected)


def _both_fwd(value_and_gradient: Any, gradient: Any, expected: Any, arguments: Any) -> Any:
    result, slopes = value_and_gradient(arguments, expected)
    return (result, slopes), (expected, arguments, slopes)


def _both_bwd(value_and_gradient: Any, gradient: Any, residuals: Any, cotangents: Any) -> Any:
    return None, _scaled_or_made(gradient, *residuals, cotangents[0])


_both.defvjp(_both_fwd, _both_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scaled_or_made(gradient: Any, expected: Any, arguments: Any, slopes: Any, cotangents: Any) -> Any:
    pairs = list(zip(jax.tree.leaves(cotangents), jax.tree.leaves(expected), strict=True))
    # The multiple is read off where the expected cotangent is largest; there is none if all are 0.
    places = [jnp.argmax(jnp.abs(e)) for _, e in pairs]
    tops = jnp.stack([e.ravel()[at] for (_, e), at in zip(pairs, places, strict=True)])
    best = jnp.argmax(jnp.abs(tops))
    factor = jnp.stack([g.ravel()[at] for (g, _), at in zip(pairs, places, strict=True)])[best]
    factor /= jnp.where(tops[best] == 0, 1, tops[best])
    fits = jnp.stack([jnp.all(g == factor * e) for g, e in pairs]).all()
    start = jax.tree.map(lambda x: _scaled(x, factor, fits), slopes)
    return gradient(arguments, cotangents, start, ~fits)


LARGE = 2**20
"""Entries from which an array is changed part by part: only a loop does so in the memory that the result will have."""


def _scaled_fwd(gradient: Any, expected: Any, arguments: Any, slopes: Any, cotangents: Any) -> Any:
    return _scaled_or_made(gradient, expected, arguments, slopes, cotangents), (arguments, cotangents)


def _scaled_bwd(gradient: Any, residuals: Any, slopes_of_slopes: Any) -> Any:
    _, pull_back = jax.vjp(lambda a, g: gradient(a, g, None, None), *residuals)
    arguments, cotangents = pull_back(slopes_of_slopes)
    return None, arguments, None, cotangents


_scaled_or_made.defvjp(_scaled_fwd, _scaled_bwd)


def _scaled(x: jax.Array, factor: jax.Array, fits: jax.Array) -> jax.Array:
    """`x * factor`, or 0 if the factor does not fit."""

    def change(part: jax.Array) -> jax.Array:
        return jnp.where(fits, part * factor, 0).astype(x.dtype)

    if x.size < LARGE or is_half(x):  # a loop over halves writes all of them in each step, see `get_at`
        return change(x)
    blocks = Blocks(x, -(-x.shape[0] // 8))

    def step(x: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        index, fresh = blocks.place(i)
        part = lax.dynamic_slice_in_dim(x, index[0], len(index))
        return set_at(
            x, change(part) if fresh is None else jnp.where(expand(fresh, part), change(part), part), index[0]
        ), None

    return blocks.scan(step, vary_alike((x, factor, fits))[0])
