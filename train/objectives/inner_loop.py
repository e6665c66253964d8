"""The inner loop of `train.objectives.meta`: descent on one task, and a map over the tasks of a batch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from train.errors import UsageError
from train.objective import Context, Objective, Term, Terms, check_loss_weights, evaluate
from train.optimizers.schedules import Rate, rate_at
from train.paths import check_matches, paths_of
from train.trees import Batch, Params, shapes_of, widen

Head = str | Callable[[str], bool]
Leaves = list[jax.Array]


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """The inner loop on one task; arguments as in `maml`, `anil` and `reptile`."""

    objective: Objective
    rate: Rate | None
    steps: int
    loss_weights: Mapping[str, Rate]
    first_order: bool = False
    head: Head | None = None
    minibatches: bool = False

    def __post_init__(self) -> None:
        if not self.loss_weights:
            raise UsageError("loss_weights of the inner loop is empty: name at least one term of the objective.")
        if self.steps < 0:
            raise UsageError(f"steps is {self.steps}, but an inner loop has at least 0 steps.")
        check_number("inner_rate", self.rate)

    def loss(self, params: Params, rows: Batch, ctx: Context, number: Any) -> tuple[jax.Array, Any]:
        """The inner loss at step `number` and the new mutable state."""
        ctx = dataclasses.replace(ctx, key=jax.random.fold_in(ctx.key, number))
        terms, state = evaluate(self.objective, params, rows, ctx)
        check_loss_weights(self.loss_weights, terms, single=True)
        total: Any = 0.0
        for name, weight in self.loss_weights.items():
            value, count = terms[name].sums()
            total += rate_at(weight, ctx.step) * value / jnp.where(count == 0, 1, count)
        return total, state

    def adapt(
        self,
        params: Params,
        support: Batch,
        ctx: Context,
        penalty: Callable[[Leaves], Any] = lambda fast: 0.0,
        rates: Leaves | None = None,
    ) -> tuple[Any, Any]:
        """The adapted parameters and the mutable state after the last inner step."""
        start, join = split(params, self.head)
        rates = [rate_at(self.rate, ctx.step)] * len(start) if rates is None else rates

        def loss(fast: Leaves, state: Any, number: Any, rows: Batch) -> tuple[jax.Array, Any]:
            value, state = self.loss(join(fast), rows, dataclasses.replace(ctx, state=state), number)
            return value + penalty(fast), state

        def descend(carry: tuple[Leaves, Any], micro: tuple[Any, Any]) -> tuple[tuple[Leaves, Any], None]:
            fast, state = carry
            number, rows = micro
            grads, state = jax.grad(loss, has_aux=True)(fast, state, number, rows if self.minibatches else support)
            grads = jax.lax.stop_gradient(grads) if self.first_order else grads
            return ([(x - a * g).astype(x.dtype) for x, a, g in zip(fast, rates, grads, strict=True)], state), None

        given = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(support)} if self.minibatches else {(self.steps,)}
        if given != {(self.steps,)}:
            raise UsageError(
                f"with minibatches=True and {self.steps} steps the support needs shapes [tasks, {self.steps}, ...], "
                f"but each task has {shapes_of(support)}."
            )
        micros = jnp.arange(self.steps), support if self.minibatches else None
        (fast, state), _ = jax.lax.scan(descend, (start, ctx.state), micros)
        return join(fast), state

    def query(self, params: Params, rows: Batch, ctx: Context, state: Any) -> tuple[Terms, Any]:
        """The terms of the query and the new mutable state."""
        key = jax.random.fold_in(ctx.key, self.steps)
        return evaluate(self.objective, params, rows["query"], dataclasses.replace(ctx, key=key, state=state))

    def any_weight(self, params: Params, support: Batch, ctx: Context) -> jax.Array:
        """Whether any value of the inner loss has weight. The compiler removes the model from this."""

        def within(rows: Batch) -> jax.Array:
            return any_weight(evaluate(self.objective, params, rows, ctx)[0], self.loss_weights)

        return jnp.any(jax.vmap(within)(support)) if self.minibatches else within(support)


def over_tasks(
    task: Callable[[Any, Any, Context], tuple[Terms, Any]], optional: tuple[str, ...] = ()
) -> Callable[[Any, Any, Context], Any]:
    """The objective of a batch of tasks, given `(params, rows of one task, ctx) -> (terms, new_state)`."""

    def meta(params: Params, batch: Batch, ctx: Context) -> Any:
        tasks = _count_tasks(batch, optional)

        def one(number: jax.Array, rows: Batch) -> tuple[Terms, Any]:
            key = jax.random.fold_in(ctx.key, number)
            terms, state = task(params, rows, dataclasses.replace(ctx, key=key, axis_name=None))
            return {name: _ranked(term) for name, term in terms.items()}, state

        terms, states = jax.vmap(one)(jnp.arange(tasks), jax.tree.map(jnp.asarray, dict(batch)))
        return terms if ctx.state is None else (terms, jax.tree.map(_agree, states))

    return meta


def split(params: Params, head: Head | None = None) -> tuple[Leaves, Callable[[Leaves], Any]]:
    """The adapted leaves in at least float32, and a function that inserts them into the tree.

    >>> leaves, join = split({"body": jnp.float32(1.0), "head": jnp.float32(2.0)}, "head")
    >>> print(join([10 * x for x in leaves])["head"], len(leaves))
    20.0 1
    """
    leaves, structure = jax.tree.flatten(params)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    if isinstance(head, str):
        check_matches(head, params, "head")
    paths = paths_of(params)
    chosen = [
        head is None or (re.search(head, path) is not None if isinstance(head, str) else bool(head(path)))
        for path in paths
    ]
    if not any(chosen):
        raise UsageError(f"head matches no parameter; their paths look like: {', '.join(paths[:8])}.")

    def join(fast: Leaves) -> Any:
        given = iter(fast)
        joined = [next(given).astype(x.dtype) if own else x for own, x in zip(chosen, leaves, strict=True)]
        return jax.tree.unflatten(structure, joined)

    wide = [widen(x) for own, x in zip(chosen, leaves, strict=True) if own]
    return wide, join


def distance(a: Leaves, b: Leaves) -> jax.Array:
    """Squared distance of two lists of leaves.

    >>> print(distance([jnp.array([1.0, 2.0])], [jnp.array([4.0, 6.0])]))
    25.0
    """
    return sum((jnp.sum((x - y) ** 2) for x, y in zip(a, b, strict=True)), jnp.zeros(()))


def any_weight(terms: Terms, names: Mapping[str, Any]) -> jax.Array:
    """Whether any value of the named terms has weight."""
    return jnp.any(jnp.stack([jnp.any(terms[name].sums()[1] != 0) for name in names]))


def with_term(terms: Terms, name: str, term: Term) -> Terms:
    """Adds a term; its name must not exist yet."""
    if name in terms:
        raise UsageError(f"the objective has a term {name!r}, as the method that it is given to: rename the term.")
    return terms | {name: term}


def check_number(name: str, value: Any, positive: bool = False) -> None:
    """Refuses a Python number that is negative or NaN (or 0, if `positive`)."""
    if isinstance(value, (int, float)) and not (value > 0 if positive else value >= 0):
        raise UsageError(f"{name} is {value}, but must be {'above 0' if positive else 'at least 0'}.")


def _count_tasks(batch: Batch, optional: tuple[str, ...]) -> int:
    expected = {"support", "query"}
    given = set(batch) if isinstance(batch, Mapping) else None
    if given is None or not expected - set(optional) <= given <= expected:
        names = ", ".join(sorted(map(str, batch))) if isinstance(batch, Mapping) else type(batch).__name__
        raise UsageError(
            "a batch of tasks is {'support': ..., 'query': ...}, each a tree of arrays [tasks, examples, ...], got "
            f"{names or 'an empty dict'}."
        )
    for name in sorted(given):
        if not jax.tree.leaves(batch[name]):
            raise UsageError(f"the {name} of a batch of tasks holds no array: give it arrays [tasks, examples, ...].")
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or sizes == {()}:
        raise UsageError(
            "support and query need the same number of tasks on the leading axis of every array, but the shapes are "
            f"{shapes_of(dict(batch))}."
        )
    return sizes.pop()[0]


def _ranked(term: Term) -> Term:
    """The term with weights of the rank of its values, so that they fit after a further axis of tasks is added."""
    if term.weights is None and jnp.ndim(term.values):
        return term
    weights = jnp.asarray(True if term.weights is None else term.weights)
    return dataclasses.replace(term, weights=weights if weights.ndim else weights.reshape((1,) * jnp.ndim(term.values)))


def _agree(states: jax.Array) -> jax.Array:
    """Combines the final states [T, ...] of tasks; equal states are returned exactly."""
    if jnp.issubdtype(states.dtype, jax.dtypes.prng_key):
        return states[0]
    if jnp.issubdtype(states.dtype, jnp.inexact):
        moved = jnp.where(states == states[:1], 0, states - states[:1])
        return (states[0] + jnp.mean(moved, axis=0)).astype(states.dtype)
    return jnp.max(states, axis=0)
