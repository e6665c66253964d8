"""Gradients computed in the forward pass for expected cotangents: scaled if those arrive, recomputed if not.

The path of `gradient_in_forward`:

    value alone                 value(*arguments)
    differentiated, forward     value_and_gradient(arguments, expected); the gradient is kept
    differentiated, backward    _scaled_or_recomputed: is the cotangent a multiple of the expected one?
                                    yes: the kept gradient times the factor
                                    no:  0, to which gradient(...) adds the gradient for the actual cotangent
    differentiated twice        through the value's rule and a recomputed gradient
"""

import functools
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._blockwise.blocks import Blocks, expand_mask, is_half, set_at
from lossfns._blockwise.pytrees import PyTree, vary_together

Arguments = TypeVar("Arguments")
Results = TypeVar("Results")


class GradientFn(Protocol[Arguments]):
    """Adds the gradient for any cotangents to a given one."""

    def __call__(
        self, arguments: Arguments, cotangents: PyTree, start: Arguments | None, active: jax.Array | None, /
    ) -> Arguments:
        """Returns `start` plus the gradient, or `start` alone if `active` is False.

        The sum must use loops that run zero times if not `active`: loops work in place. With None for both it returns
        the gradient, by differentiable operations.
        """


class _Functions(NamedTuple, Generic[Arguments, Results]):
    value: Callable[..., Results]
    value_and_gradient: Callable[[Arguments, PyTree], tuple[Results, Arguments]]
    gradient: GradientFn[Arguments]


def gradient_in_forward(
    value: Callable[..., Results],
    value_and_gradient: Callable[[Arguments, PyTree], tuple[Results, Arguments]],
    gradient: GradientFn[Arguments],
    expected: PyTree,
    arguments: Arguments,
) -> Results:
    """`value(*arguments)`, with its gradient for expected cotangents computed in the forward pass.

    Args:
        value: The function.
        value_and_gradient: `value_and_gradient(arguments, expected)` returns its value, and its gradient for the
            expected cotangents in the structure of the arguments, None at integers.
        gradient: Its gradient for any cotangents, used if they are not a multiple of the expected ones.
        expected: Expected cotangents, in the structure of the value.
        arguments: The differentiated arguments.
    """
    results: Results = _gradient_in_forward(_Functions(value, value_and_gradient, gradient), expected, arguments)
    return results


_Residuals = tuple[PyTree, Arguments, Arguments]
"""Expected cotangents, arguments, and the gradient for the expected cotangents."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradient_in_forward(f: _Functions[Arguments, Results], expected: PyTree, arguments: PyTree) -> Results:
    return f.value(*arguments)


def _gradient_in_forward_fwd(
    f: _Functions[Arguments, Results], expected: PyTree, arguments: Arguments
) -> tuple[Results, _Residuals[Arguments]]:
    results, grads = _value_and_gradient(f, expected, arguments)
    return results, (expected, arguments, grads)


def _gradient_in_forward_bwd(
    f: _Functions[Arguments, Results], residuals: _Residuals[Arguments], cotangents: PyTree
) -> tuple[None, Arguments]:
    return None, _scaled_or_recomputed(f.gradient, *residuals, cotangents)


_gradient_in_forward.defvjp(_gradient_in_forward_fwd, _gradient_in_forward_bwd)


# Second derivatives use the value's rule and a recomputed gradient: the kept gradient is a mere number to JAX.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _value_and_gradient(
    f: _Functions[Arguments, Results], expected: PyTree, arguments: Arguments
) -> tuple[Results, Arguments]:
    return f.value_and_gradient(arguments, expected)


def _value_and_gradient_fwd(
    f: _Functions[Arguments, Results], expected: PyTree, arguments: Arguments
) -> tuple[tuple[Results, Arguments], _Residuals[Arguments]]:
    results, grads = f.value_and_gradient(arguments, expected)
    return (results, grads), (expected, arguments, grads)


def _value_and_gradient_bwd(
    f: _Functions[Arguments, Results], residuals: _Residuals[Arguments], cotangents: tuple[PyTree, PyTree]
) -> tuple[None, Arguments]:
    return None, _scaled_or_recomputed(f.gradient, *residuals, cotangents[0])


_value_and_gradient.defvjp(_value_and_gradient_fwd, _value_and_gradient_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scaled_or_recomputed(
    gradient: GradientFn[Arguments], expected: PyTree, arguments: Arguments, grads: Arguments, cotangents: PyTree
) -> Arguments:
    pairs = list(zip(jax.tree.leaves(cotangents), jax.tree.leaves(expected), strict=True))
    # The factor is read where the expected cotangent is largest, and undefined if all are 0.
    positions = [jnp.argmax(jnp.abs(e)) for _, e in pairs]
    largest = jnp.stack([e.ravel()[at] for (_, e), at in zip(pairs, positions, strict=True)])
    best = jnp.argmax(jnp.abs(largest))
    factor = jnp.stack([g.ravel()[at] for (g, _), at in zip(pairs, positions, strict=True)])[best]
    factor /= jnp.where(largest[best] == 0, 1, largest[best])
    # The kept gradient is valid if every cotangent is exactly this multiple of the expected one.
    is_multiple = jnp.stack([jnp.all(g == factor * e) for g, e in pairs]).all()
    start = jax.tree.map(lambda x: _scaled(x, factor, is_multiple), grads)
    return gradient(arguments, cotangents, start, ~is_multiple)


def _scaled_or_recomputed_fwd(
    gradient: GradientFn[Arguments], expected: PyTree, arguments: Arguments, grads: Arguments, cotangents: PyTree
) -> tuple[Arguments, tuple[Arguments, PyTree]]:
    return _scaled_or_recomputed(gradient, expected, arguments, grads, cotangents), (arguments, cotangents)


def _scaled_or_recomputed_bwd(
    gradient: GradientFn[Arguments], residuals: tuple[Arguments, PyTree], second_cotangents: Arguments
) -> tuple[None, Arguments, None, PyTree]:
    _, pull_back = jax.vjp(lambda a, g: gradient(a, g, None, None), *residuals)
    d_arguments, d_cotangents = pull_back(second_cotangents)
    return None, d_arguments, None, d_cotangents


_scaled_or_recomputed.defvjp(_scaled_or_recomputed_fwd, _scaled_or_recomputed_bwd)


LARGE = 2**20
"""Entries from which an array is scaled in blocks: a loop works in place, in the memory of the result."""


def _scaled(x: jax.Array, factor: jax.Array, is_multiple: jax.Array) -> jax.Array:
    """`x * factor`, or 0 if the cotangents are not a multiple of the expected ones."""

    def change(block: jax.Array) -> jax.Array:
        return jnp.where(is_multiple, block * factor, 0).astype(x.dtype)

    if x.size < LARGE or is_half(x):  # in half precision each step would write the whole array, see `get_at`
        return change(x)
    blocks = Blocks(x, -(-x.shape[0] // 8))

    def step(x: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        index, first_visit = blocks.indices(i)
        block = lax.dynamic_slice_in_dim(x, index[0], len(index))
        if first_visit is None:
            return set_at(x, change(block), index[0]), None
        return set_at(x, jnp.where(expand_mask(first_visit, block), change(block), block), index[0]), None

    return blocks.scan(step, vary_together((x, factor, is_multiple))[0])
