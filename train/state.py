"""The state of a run in one pytree."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax

from train.paths import check_leaves
from train.trees import Params, Tree, is_key, widen


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of a run: a pytree, never changed in place.

    Args:
        step: Number of updates done so far, int32 scalar.
        params: The parameters, any pytree.
        opt_state: State of the Optax optimizer.
        key: Base PRNG key, never advanced: the key of a step is `fold_in(key, step)`, so a resumed run draws the same
            numbers as one that never stopped.
        ema: Exponential moving average of the parameters, or None.
        frozen: Constants of the objective: a teacher, a reference policy.
        state: Mutable collections that the objective returns in their new form: a queue, a centre, batch statistics.
        loss_scale: State of dynamic loss scaling (`train.LossScale`), or None.
    """

    step: jax.Array
    params: Params
    opt_state: Tree
    key: jax.Array
    ema: Params = None
    frozen: Any = None
    state: Any = None
    loss_scale: Any = None

    def replace(self, **changes: Any) -> Self:
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def create_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    key: int | jax.Array,
    ema: bool = False,
    frozen: Any = None,
    state: Any = None,
    loss_scale: Any = None,
) -> TrainState:
    """Returns the state before the first update.

    Everything is copied, so a step may donate the state's memory without deleting the caller's arrays.

    Args:
        params: The initial parameters, any pytree of arrays.
        optimizer: An Optax gradient transformation.
        key: An integer seed or a PRNG key.
        ema: Whether to keep an average of the parameters; it starts at the parameters, in at least float32, because
            an update of one part in a thousand is lost in bfloat16.
        frozen: Passed to the objective as `ctx.frozen`.
        state: Initial mutable collections, passed as `ctx.state`.
        loss_scale: The first loss scale, for float16 (`precision.loss_scale()`).

    Returns:
        A TrainState at step 0.

    >>> state = create_state({"w": jnp.ones(3)}, optax.sgd(0.1), key=0, ema=True)
    >>> int(state.step), state.ema["w"].tolist()
    (0, [1.0, 1.0, 1.0])
    """
    check_leaves(
        params,
        "the parameter tree",
        (jnp.number, jnp.bool_),
        "Parameters are arrays of numbers: put keys into state=, and keep the rest outside of the tree.",
    )
    params = _copy(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=_copy(optimizer.init(params)),
        key=_copy_leaf(_as_key(key)),
        ema=jax.tree.map(lambda p: jnp.array(widen(p), copy=True), params) if ema else None,
        frozen=_copy(frozen),
        state=_copy(state),
        loss_scale=_copy(loss_scale),
    )


def average(ema: Params, params: Params, decay: Any) -> Any:
    """Returns `decay * ema + (1 - decay) * params`, in the dtypes of `ema`; other leaves than real numbers are copied.

    >>> average({"w": jnp.array(1.0)}, {"w": jnp.array(3.0)}, 0.75)["w"].item()
    1.5
    """

    def leaf(old: jax.Array, new: jax.Array) -> jax.Array:
        new = new.astype(old.dtype)
        return (decay * old + (1 - decay) * new).astype(old.dtype) if jnp.issubdtype(old.dtype, jnp.inexact) else new

    return jax.tree.map(leaf, ema, params)


def _as_key(key: Any) -> jax.Array:
    if is_key(key):
        return key
    made: jax.Array = jax.random.key(key) if jnp.ndim(key) == 0 else jax.random.wrap_key_data(key)
    return made


def _copy_leaf(leaf: Any) -> jax.Array:
    if is_key(leaf):
        data = jnp.copy(jax.random.key_data(leaf))
        copied: jax.Array = jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return copied
    # An explicit dtype drops weak types, which would cost a second compilation after the first step.
    return jnp.array(leaf, dtype=jnp.result_type(leaf), copy=True)


def _copy(tree: Tree) -> Any:
    return jax.tree.map(_copy_leaf, tree)
