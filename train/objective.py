"""The currency of training: an objective turns parameters and a batch into named terms, and a term never averages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from train.errors import UsageError

RESERVED_METRICS = ("loss", "grad_norm", "skipped", "overflow", "loss_scale")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Term:
    """One value per example (or token, or pair) and a weight that says how much each counts.

    Its mean is ``sum(values * weights) / sum(weights)``, both sums taken over examples, micro-batches and devices
    before the one division. Losses and metrics alike are terms.

    Args:
      values: boolean, integer or real array of any shape; a scalar is a term of one value.
      weights: boolean or real array, not negative, either a scalar or of the rank of ``values`` with each axis equal
        to theirs or 1. Left out, each value weighs one.
      keep: number of trailing axes that are not summed, for counts such as a confusion matrix; 0 for a loss.

    >>> term = Term(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([1.0, 0.5, 0.0]))
    >>> [float(x) for x in term.sums()]
    [2.5, 1.5]
    """

    values: Any
    weights: Any = None
    keep: int = dataclasses.field(default=0, metadata={"static": True})

    def sums(self) -> tuple[jax.Array, jax.Array]:
        """Return ``(sum(values * weights), sum(weights))``, in float32 or wider; scalars, or of the kept axes' shape.

        A value at weight 0 does not count, not even a NaN, and its gradient is 0. Weights carry no gradient.

        Returns:
          The weighted sum of the values and the sum of the weights (each broadcast to the values first).

        Raises:
          UsageError: the weights do not fit the values.
        """
        values, weights = self.broadcast()
        counted = jnp.where(weights == 0, jnp.zeros_like(values), values)
        axes = tuple(range(values.ndim - self.keep))
        return jnp.sum(counted * weights, axes), jnp.sum(weights, axes)

    def broadcast(self) -> tuple[jax.Array, jax.Array]:
        """Return values and weights in one shape and in one dtype, float32 or wider; the weights carry no gradient."""
        values = jnp.asarray(self.values)
        weights = jnp.ones((), bool) if self.weights is None else jnp.asarray(self.weights)
        dtype = jnp.promote_types(jnp.promote_types(values.dtype, weights.dtype), jnp.float32)
        # Equal ranks, because NumPy would line up weights [B] with the last axis of values [B, T].
        fits = weights.ndim == 0 or (
            weights.ndim == values.ndim and all(w in (1, v) for w, v in zip(weights.shape, values.shape, strict=True))
        )
        if not fits:
            raise UsageError(
                f"weights of shape {weights.shape} do not fit values of shape {values.shape}: give the weights the "
                "rank of the values, with each axis equal to theirs or 1 (for example weights[:, None])."
            )
        weights = jnp.broadcast_to(jax.lax.stop_gradient(weights.astype(dtype)), values.shape)
        return values.astype(dtype), weights


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What an objective may use besides parameters and batch.

    Args:
      key: PRNG key of this step, micro-batch and device.
      step: number of updates done so far, int32 scalar.
      ema: averaged parameters, if the state keeps them.
      frozen: anything that is not trained: a teacher, a reference policy.
      state: mutable collections (a queue, a centre, batch statistics). An objective that changes them returns
        ``(terms, new_state)``.
      axis_name: the mapped device axis, for losses that couple the examples of a batch; None on a single device and
        in the global view of ``jit``, where the batch is whole already.
      train: False in evaluation: no dropout.
      loss_scale: state of dynamic loss scaling, for a ``Precision`` around the objective.
    """

    key: jax.Array
    step: jax.Array
    ema: Any = None
    frozen: Any = None
    state: Any = None
    axis_name: str | None = dataclasses.field(default=None, metadata={"static": True})
    train: bool = dataclasses.field(default=True, metadata={"static": True})
    loss_scale: Any = None


Terms = dict[str, Term]
Objective = Callable[[Any, Any, Context], Terms | tuple[Terms, Any]]
Sums = dict[str, tuple[jax.Array, jax.Array]]


def evaluate(objective: Objective, params: Any, batch: Any, ctx: Context) -> tuple[Terms, Any]:
    """Call an objective and check what it returns.

    Args:
      objective: ``(params, batch, ctx) -> terms`` or ``-> (terms, new_state)``.
      params: any pytree.
      batch: any pytree of arrays.
      ctx: the context; its ``state`` is passed on if the objective returns terms only.

    Returns:
      The terms and the new mutable state.

    Raises:
      UsageError: something else than named terms came back, a name is reserved, the weights of a term do not fit its
        values, or the new state differs from the old in structure, shapes or dtypes.
    """
    result = objective(params, batch, ctx)
    terms, new_state = result if isinstance(result, tuple) else (result, ctx.state)
    if not isinstance(terms, dict) or not terms or not all(isinstance(term, Term) for term in terms.values()):
        raise UsageError(
            f"an objective returns a non-empty dict of Term, or (that dict, new_state), not {_kind(terms)}."
        )
    for name, term in terms.items():
        if name in RESERVED_METRICS:
            raise UsageError(f"term {name!r} has the name of a metric that the step reports itself: rename the term.")
        try:
            term.broadcast()
        except UsageError as error:
            raise UsageError(f"term {name!r}: {error}") from None
    if isinstance(result, tuple):
        _check_same_layout(ctx.state, new_state)
    return terms, new_state


def check_loss_weights(loss_weights: Mapping[str, Any], terms: Mapping[str, Term]) -> None:
    """Raise UsageError unless every name in ``loss_weights`` is a term of the objective that can be trained on."""
    unknown = sorted(set(loss_weights) - set(terms))
    if unknown:
        raise UsageError(
            f"loss_weights names {_names(unknown)}, but the objective's terms are {_names(sorted(terms))}."
        )
    kept = sorted(name for name in loss_weights if terms[name].keep)
    if kept:
        raise UsageError(
            f"loss_weights names {_names(kept)}, whose Term keeps axes: only a Term with keep=0 is a loss."
        )


def _check_same_layout(old: Any, new: Any) -> None:
    def layout(tree: Any) -> tuple[Any, list[tuple[Any, Any]]]:
        leaves, structure = jax.tree.flatten(tree)
        return structure, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]

    if layout(old) != layout(new):
        raise UsageError(
            "the objective's new state must have the structure, shapes and dtypes of the old one: it was "
            f"{_describe(old)} and became {_describe(new)}; give create_state(..., state=...) its final form."
        )


def _describe(tree: Any) -> str:
    return str(jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", tree))


def _kind(terms: Any) -> str:
    if isinstance(terms, dict):
        return "{" + ", ".join(f"{name!r}: {type(term).__name__}" for name, term in terms.items()) + "}"
    return type(terms).__name__


def _names(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
