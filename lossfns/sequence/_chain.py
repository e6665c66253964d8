"""Sum over all paths of a chain of states, and the posterior of states and transitions.

Time comes first: scores are [T, ..., K], transitions [K, K] or [..., K, K], from row to column. Absent steps are
skipped, and `first` marks the first present step, which has no transition into it.

Fast form: a step is one product, `exp(a - max a) @ exp(A - column maxima)`, instead of a log-sum-exp over [K, K]. It
loses at most K exp(-87) to underflow in float32, negligible next to a sum of at least exp(-60). If some sum is smaller
(of a state reached only from very unlikely states), log-sum-exp is used throughout.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossfns._numerics import log_of_sum, row_shift, vary_like

_HIGHEST = jax.lax.Precision.HIGHEST


class Posterior(NamedTuple):
    """Log-partition and posterior of a chain.

    Attributes:
        log_z: [...], log of the sum over paths; 0 without a step, -inf without a path.
        states: [T, ..., K], probability of each state at each step; 0 at absent steps.
        transitions: [..., K, K], expected number of each transition.
    """

    log_z: jax.Array
    states: jax.Array
    transitions: jax.Array


@jax.custom_jvp
def log_partition(scores: jax.Array, transitions: jax.Array, first: jax.Array, present: jax.Array) -> jax.Array:
    """Log of the sum over paths of exp of their scores, [...]; its derivatives are `posterior`'s probabilities."""
    forward = _forward(scores, transitions, first, present)
    out: jax.Array = jax.lax.cond(
        forward.safe, lambda: forward.log_z, lambda: _exact_forward(scores, transitions, first, present)[0]
    )
    return out


@log_partition.defjvp
def _log_partition_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    out = posterior(*primals)
    tangent_out = jnp.einsum("t...k,t...k->...", out.states, tangents[0], precision=_HIGHEST)
    moved = jnp.broadcast_to(tangents[1], out.transitions.shape)
    tangent_out += jnp.einsum("...ij,...ij->...", out.transitions, moved, precision=_HIGHEST)
    return out.log_z, tangent_out


def posterior(scores: jax.Array, transitions: jax.Array, first: jax.Array, present: jax.Array) -> Posterior:
    """The forward-backward algorithm; differentiable like any function."""
    forward = _forward(scores, transitions, first, present)
    out: Posterior = jax.lax.cond(
        forward.safe,
        lambda: _backward(forward, transitions, first, present),
        lambda: _exact_posterior(scores, transitions, first, present),
    )
    return out


class _Forward(NamedTuple):
    log_z: jax.Array
    last: jax.Array
    before: jax.Array
    into: jax.Array
    safe: jax.Array


def _smallest(dtype: jnp.dtype) -> float:
    """Sums below this may be inaccurate: exp(-60) in float32, where exp underflows at -87."""
    return math.exp(0.7 * math.log(float(jnp.finfo(dtype).tiny)))


def _by_column(transitions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Exp of the transitions over their column maxima, and those maxima [..., K], 0 in a column of -inf."""
    _, top = row_shift(jnp.swapaxes(transitions, -1, -2))
    return jnp.exp(transitions - jnp.swapaxes(top, -1, -2)), top[..., 0]


def _start(scores: jax.Array, *others: jax.Array) -> tuple[jax.Array, jax.Array]:
    state = vary_like(jnp.zeros(scores.shape[1:], scores.dtype), scores, *others)
    return state, jnp.zeros_like(state[..., 0])


def _forward(scores: jax.Array, transitions: jax.Array, first: jax.Array, present: jax.Array) -> _Forward:
    weights, column = _by_column(transitions)
    smallest = _smallest(scores.dtype)
    reachable = jnp.broadcast_to(jnp.any(transitions != -jnp.inf, axis=-2), scores.shape[1:])
    column = jnp.broadcast_to(column, scores.shape[1:])

    def step(carry, inputs):  # type: ignore[no-untyped-def]
        a, total, lowest = carry
        score, is_first, is_present = inputs
        _, top = row_shift(a)
        before = jnp.exp(a - top)
        into = jnp.einsum("...i,...ij->...j", before, weights, precision=_HIGHEST)
        moved = log_of_sum(into) + column + score
        a = jnp.where(is_present[..., None], jnp.where(is_first[..., None], score, moved), a - top)
        entered = (is_present & ~is_first)[..., None] & reachable
        lowest = jnp.minimum(lowest, jnp.where(entered, into, 1))
        return (a, total + top[..., 0], lowest), (before, into)

    state, total = _start(scores, transitions, first, present)
    carry = state, total, jnp.ones_like(state)
    (last, total, lowest), (before, into) = jax.lax.scan(step, carry, (scores, first, present))
    return _Forward(_end(last, total, present), last, before, into, jnp.all(lowest >= smallest))


def _end(last: jax.Array, total: jax.Array, present: jax.Array) -> jax.Array:
    _, top = row_shift(last)
    return jnp.where(
        jnp.any(present, axis=0), log_of_sum(jnp.sum(jnp.exp(last - top), axis=-1)) + top[..., 0] + total, 0
    )


def _ending(last: jax.Array) -> jax.Array:
    """Probabilities of the last states, 0 where no path ends."""
    _, top = row_shift(last)
    parts = jnp.exp(last - top)
    total = jnp.sum(parts, axis=-1, keepdims=True)
    return parts / jnp.where(total == 0, 1, total)


def _backward(forward: _Forward, transitions: jax.Array, first: jax.Array, present: jax.Array) -> Posterior:
    """Backward pass by P(previous state | state), which needs only the forward sums."""
    weights, _ = _by_column(transitions)
    smallest = _smallest(weights.dtype)

    def step(after, inputs):  # type: ignore[no-untyped-def]
        before, into, is_first, is_present = inputs
        # Below the smallest sum there is no mass here, or this form is not used.
        some = (is_present & ~is_first)[..., None] & ~(into < smallest)
        share = jnp.where(some, after / jnp.where(some, into, 1), 0)
        earlier = before * jnp.einsum("...j,...ij->...i", share, weights, precision=_HIGHEST)
        states = jnp.where(is_present[..., None], after, 0)
        return jnp.where((is_present & ~is_first)[..., None], earlier, after), (states, share)

    inputs = forward.before, forward.into, first, present
    _, (states, shares) = jax.lax.scan(step, _ending(forward.last), inputs, reverse=True)
    pairs = jnp.einsum("t...i,t...j->...ij", forward.before, shares, precision=_HIGHEST)
    return Posterior(forward.log_z, states, jnp.broadcast_to(weights, pairs.shape) * pairs)


def _exact_forward(
    scores: jax.Array, transitions: jax.Array, first: jax.Array, present: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same sum by log-sum-exp over [K, K]: log Z, the last states' and, before each step, the states' log-sums."""
    across = _across(scores, transitions)

    def step(carry, inputs):  # type: ignore[no-untyped-def]
        a, total = carry
        score, is_first, is_present = inputs
        _, top = row_shift(a)
        a = a - top
        ways = a[..., None, :] + across
        _, best = row_shift(ways)
        moved = log_of_sum(jnp.sum(jnp.exp(ways - best), axis=-1)) + best[..., 0] + score
        new = jnp.where(is_present[..., None], jnp.where(is_first[..., None], score, moved), a)
        return (new, total + top[..., 0]), a

    carry = _start(scores, transitions, first, present)
    (last, total), before = jax.lax.scan(step, carry, (scores, first, present))
    return _end(last, total, present), last, before


def _across(scores: jax.Array, transitions: jax.Array) -> jax.Array:
    """Transitions into the row's state from the column's, [..., K, K] for each example."""
    across = jnp.swapaxes(transitions, -1, -2)
    return jnp.broadcast_to(across, (*scores.shape[1:-1], *across.shape[-2:]))


def _exact_posterior(scores: jax.Array, transitions: jax.Array, first: jax.Array, present: jax.Array) -> Posterior:
    log_z, last, before = _exact_forward(scores, transitions, first, present)
    across = _across(scores, transitions)

    def step(carry, inputs):  # type: ignore[no-untyped-def]
        after, pairs = carry
        a, is_first, is_present = inputs
        ways = a[..., None, :] + across
        _, best = row_shift(ways)
        parts = jnp.exp(ways - best)
        into = jnp.sum(parts, axis=-1, keepdims=True)
        entered = is_present & ~is_first
        some = entered[..., None, None] & (into != 0)
        share = jnp.where(some, parts * after[..., None] / jnp.where(some, into, 1), 0)
        states = jnp.where(is_present[..., None], after, 0)
        return (jnp.where(entered[..., None], jnp.sum(share, axis=-2), after), pairs + share), states

    pairs = jnp.zeros_like(last[..., None] + across)
    (_, pairs), states = jax.lax.scan(step, (_ending(last), pairs), (before, first, present), reverse=True)
    return Posterior(log_z, states, jnp.swapaxes(pairs, -1, -2))
