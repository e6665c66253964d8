"""Objectives and terms: an objective maps parameters and a batch to named terms, and a term never averages."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from train.errors import UsageError
from train.trees import Batch, Params, Tree

RESERVED_METRICS = ("loss", "grad_norm", "skipped", "overflow", "loss_scale")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Term:
    """One value per example (or token, or pair) and a weight that says how much each counts.

    Its mean is `sum(values * weights) / sum(weights)`, both sums taken over examples, micro-batches and devices
    before the one division. Both losses and metrics are terms; `term` makes the term of a loss.

    Args:
        values: Boolean, integer or real array of any shape; a scalar is a term of one value.
        weights: Boolean or real array, not negative, either a scalar or of the rank of `values` with each axis equal
            to theirs or 1. By default each value has weight 1; a term that is trained on must state this as
            `weights=1`.
        keep: Number of trailing axes that are not summed, for counts such as a confusion matrix; 0 for a loss.

    >>> term = Term(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([1.0, 0.5, 0.0]))
    >>> [float(x) for x in term.sums()]
    [2.5, 1.5]
    """

    values: Any
    weights: Any = None
    keep: int = dataclasses.field(default=0, metadata={"static": True})

    def sums(self) -> tuple[jax.Array, jax.Array]:
        """Returns `(sum(values * weights), sum(weights))` in at least float32: scalars, or arrays of the kept axes.

        A value with weight 0 does not count, even if it is NaN, and its gradient is 0. Weights carry no gradient.

        Returns:
            The weighted sum of the values and the sum of the weights (each broadcast to the values first).
        """
        values, weights = self.broadcast()
        counted = jnp.where(weights == 0, jnp.zeros_like(values), values)
        axes = tuple(range(values.ndim - self.keep))
        return jnp.sum(counted * weights, axes), jnp.sum(weights, axes)

    def broadcast(self) -> tuple[jax.Array, jax.Array]:
        """Returns values and weights in one shape and one dtype, at least float32; the weights carry no gradient."""
        values = _real("values", self.values)
        weights = _fitting(True if self.weights is None else self.weights, values)
        dtype = jnp.promote_types(jnp.promote_types(values.dtype, weights.dtype), jnp.float32)
        return values.astype(dtype), jax.lax.stop_gradient(weights.astype(dtype))


def term(loss: Callable[..., Any], /, *args: Any, where: Any = None, weights: Any = None, **options: Any) -> Term:
    """Calls a loss and weights its values by the entries that it counts, so that the mask is given once.

    Args:
        loss: `loss(*args, where=where, **options)`, one value per example. `where` says which values count, unless the
            loss has an attribute `term_weights(*args, where=, **options)`, as next-token losses do. It is found inside
            partial, bound and jitted functions; your own wrapper of such a loss needs its own `term_weights`.
        *args: The arrays of the loss, predictions first.
        where: Boolean mask of the valid entries, in the shape that the loss expects. None: all.
        weights: Importance of each value, multiplied with the mask: a non-negative scalar, or an array of the rank of
            the values with each axis equal to theirs or 1.
        **options: Hyper-parameters of the loss.

    Returns:
        The term. A single value has no weights unless `where` or `weights` is given, because it may be a mean taken too
        early.

    Raises:
        UsageError: The loss returns several arrays, or values that do not fit the mask or the weights; it takes no
            `where`; or the mask is not boolean.

    >>> def absolute(predictions, targets, *, where=None):
    ...     return jnp.where(True if where is None else where, jnp.abs(predictions - targets), 0)
    >>> mask = jnp.array([True, True, False])
    >>> total, weight = term(absolute, jnp.array([1.0, 2.0, 9.0]), jnp.zeros(3), where=mask).sums()
    >>> print(total / weight)  # (1 + 2) / 2
    1.5
    """
    if not callable(loss):
        raise UsageError(f"term calls a loss, as in term(lossfns.next_token, logits, tokens), got {loss!r}.")
    name = _name(loss)
    if where is not None:
        _check_mask(loss, name, where)
    result = loss(*args, **options, **({} if where is None else {"where": where}))
    values = _one_array(name, result)
    counted = _what_counts(loss, args, options, where)
    if counted is None and weights is None and not values.ndim:
        return Term(values)
    counted = jnp.ones(values.shape, bool) if counted is None else _real("what counts", counted)
    if counted.shape != values.shape:
        raise UsageError(
            f"{name} returns values of shape {values.shape}, but what counts has the shape {counted.shape}: call it "
            f"yourself, and give Term(values, weights) weights of the shape {values.shape}."
        )
    if weights is not None:
        # Not just a product: a NaN weight at a masked entry would come through.
        counted = jnp.where(counted == 0, 0, counted * _fitting(weights, values))
    return Term(values, counted)


def penalty(value: Any) -> Term:
    """A term of one number that is not a mean over examples, such as a norm of the parameters.

    It is averaged over micro-batches and devices, which leaves a number unchanged that does not depend on the batch.

    Args:
        value: A real scalar.

    >>> print(*penalty(jnp.float32(0.5)).sums())
    0.5 1.0
    """
    value = _real("the value of a penalty", value)
    if value.ndim:
        raise UsageError(
            f"a penalty is one number, got the shape {value.shape}: sum it, or give Term(values, weights)."
        )
    return Term(value, jnp.ones((), bool))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """Everything an objective may use in addition to parameters and batch.

    Args:
        key: PRNG key of this step, micro-batch and device.
        step: Number of updates done so far, int32 scalar.
        ema: Averaged parameters, if the state keeps them.
        frozen: Anything that is not trained: a teacher, a reference policy.
        state: Mutable collections (a queue, a centre, batch statistics). An objective that changes them returns
            `(terms, new_state)`.
        axis_name: The mapped device axis, for losses that couple the examples of a batch; None on a single device and
            in the global view of `jit`, which sees the whole batch.
        train: False in evaluation: no dropout.
        loss_scale: State of dynamic loss scaling, for a `Precision` around the objective.
    """

    key: jax.Array
    step: jax.Array
    ema: Params = None
    frozen: Any = None
    state: Any = None
    axis_name: str | None = dataclasses.field(default=None, metadata={"static": True})
    train: bool = dataclasses.field(default=True, metadata={"static": True})
    loss_scale: Any = None


Terms = dict[str, Term]
Objective = Callable[[Any, Any, Context], Terms | tuple[Terms, Any]]
Sums = dict[str, tuple[jax.Array, jax.Array]]


def evaluate(objective: Objective, params: Params, batch: Batch, ctx: Context) -> tuple[Terms, Any]:
    """Calls an objective and checks its result; returns the terms and the new state, or `ctx.state` unchanged."""
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


def check_loss_weights(loss_weights: Mapping[str, Any], terms: Mapping[str, Term], *, single: bool = False) -> None:
    """Raises UsageError unless every name in `loss_weights` is a term of the objective that can be trained on.

    `single` accepts a single value without weights: the objective of one task, which is not part of a batch.
    """
    unknown = sorted(set(loss_weights) - set(terms))
    if unknown:
        raise UsageError(
            f"loss_weights names {_names(unknown)}, but the objective's terms are {_names(sorted(terms))}."
        )
    kept = sorted(name for name in loss_weights if terms[name].keep)
    if kept:
        raise UsageError(
            f"loss_weights names {_names(kept)}, but their Terms keep axes: only a Term with keep=0 is a loss."
        )
    for name in (name for name in loss_weights if terms[name].weights is None):
        shape = jnp.shape(terms[name].values)
        if shape:
            raise UsageError(
                f"term {name!r} is trained on, but its values of shape {shape} have no weights, so masked ones would "
                "count: use term(loss, ..., where=mask), Term(values, mask), or weights=1 if all of them count."
            )
        if not single:
            raise UsageError(
                f"term {name!r} is trained on, but is a single number without weights: a mean taken too early gives a "
                "short micro-batch the weight of a long one. Return one value per example, as term(loss, ...) does; "
                "use penalty(x) for a number that is not a mean, such as a norm of the parameters; or say with "
                "Term(mean, weights=count) how much it counts."
            )


def _what_counts(loss: Any, args: tuple[Any, ...], options: Mapping[str, Any], where: Any) -> Any:
    """The weights by the `term_weights` of a loss, found inside partial, bound and jitted functions; else the mask."""
    if isinstance(loss, functools.partial):
        options = {**loss.keywords, **options}
        inner = options.pop("where", None)
        return _what_counts(loss.func, (*loss.args, *args), options, inner if where is None else where)
    if inspect.ismethod(loss):
        return _what_counts(loss.__func__, (loss.__self__, *args), options, where)
    own, wrapped = getattr(loss, "term_weights", None), getattr(loss, "__wrapped__", None)
    # A wrapper copies the attributes of the wrapped function, which may be bound, so the wrapped one comes first.
    if wrapped is not None and own is getattr(wrapped, "term_weights", None):
        return _what_counts(wrapped, args, options, where)
    return where if own is None else own(*args, where=where, **options)


def _name(loss: Callable[..., Any]) -> str:
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "__name__", type(loss).__name__)


def _check_mask(loss: Callable[..., Any], name: str, where: Any) -> None:
    if not isinstance(where, Mapping) and _real("where", where).dtype.kind != "b":
        raise UsageError(
            f"where says which entries are valid and must be boolean, not {jnp.result_type(where)}: how much a value "
            "counts goes into weights=."
        )
    try:
        parameters = inspect.signature(loss).parameters
    except (TypeError, ValueError):  # a callable without a signature
        return
    if "where" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise UsageError(
            f"{name} takes no where, so masked entries would reach its values: make a loss that does, or use "
            f"Term({name}(...), weights=mask) if they are harmless."
        )


def _one_array(name: str, result: Any) -> jax.Array:
    if isinstance(result, Mapping):
        form = "{name: Term(values[name], where[name]) for name in values}"
        raise UsageError(
            f"{name} returns a mapping of {_names(sorted(map(str, result)))}: call it yourself, and use {form}."
        )
    if isinstance(result, tuple | list):
        parts = getattr(result, "_fields", range(len(result)))
        first = f"out.{parts[0]}" if hasattr(result, "_fields") else "out[0]"
        raise UsageError(
            f"{name} returns {len(result)} parts ({', '.join(map(str, parts))}): call it yourself, and make a term of "
            f"each loss among them, as Term({first}, weights)."
        )
    return _real(f"what {name} returns", result)


def _real(name: str, value: Any) -> jax.Array:
    """The value as an array of booleans, integers or real numbers."""
    kind = type(value).__name__
    if value is not None:
        try:
            array = jnp.asarray(value)
        except (TypeError, ValueError, OverflowError):
            kind = str(getattr(value, "dtype", kind))  # text, objects, dates, ragged lists
        else:
            if any(jnp.issubdtype(array.dtype, known) for known in (jnp.bool_, jnp.integer, jnp.floating)):
                return array
            kind = str(array.dtype)
    raise UsageError(f"{name} must be an array of booleans, integers or real numbers, not {kind}.")


def _fitting(weights: Any, values: jax.Array) -> jax.Array:
    """The weights, broadcast to the values."""
    weights = _real("weights", weights)
    # Equal ranks, because NumPy would line up weights [B] with the last axis of values [B, T].
    fits = weights.ndim == 0 or (
        weights.ndim == values.ndim and all(w in (1, v) for w, v in zip(weights.shape, values.shape, strict=True))
    )
    if not fits:
        raise UsageError(
            f"weights of shape {weights.shape} do not fit values of shape {values.shape}: give the weights the "
            "rank of the values, with each axis equal to theirs or 1 (for example weights[:, None])."
        )
    return jnp.broadcast_to(weights, values.shape)


def _check_same_layout(old: Any, new: Any) -> None:
    def layout(tree: Tree) -> tuple[Any, list[tuple[Any, Any]]]:
        leaves, structure = jax.tree.flatten(tree)
        return structure, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]

    if layout(old) != layout(new):
        raise UsageError(
            "the objective's new state must have the structure, shapes and dtypes of the old one: it was "
            f"{_describe(old)} and became {_describe(new)}; give create_state(..., state=...) its final form."
        )


def _describe(tree: Tree) -> str:
    return str(jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", tree))


def _kind(terms: Any) -> str:
    if isinstance(terms, dict):
        return "{" + ", ".join(f"{name!r}: {type(term).__name__}" for name, term in terms.items()) + "}"
    return type(terms).__name__


def _names(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
