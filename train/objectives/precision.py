"""Mixed precision: dtypes of parameters, computation and losses as a policy.

    precision = make_precision("bfloat16")
    objective = precision.wrap(objective)

It wraps an objective, so neither model nor step needs a change: the objective receives parameters and inputs in the
compute type, and its terms are float32. Parameters, optimizer, gradients and their sums over micro-batches and devices
keep the type of the parameters.

With float16, gradients below 3e-8 vanish. So the gradient of each term is multiplied by a loss scale when it enters the
objective, and divided by it when it leaves, before it is summed, clipped or logged. The scale is adapted during
training:

    step = precision.scaled(skip_nonfinite(build_train_step(objective, ...)))
    state = create_state(params, optimizer, key=0, loss_scale=precision.loss_scale())

It is halved after a gradient that is not finite, which skips that update, and doubled after many good steps in a row.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from train.errors import UsageError, check_name
from train.objective import Context, Objective, Term, Terms
from train.parallel import Step, Sync
from train.paths import map_with_path
from train.trees import Batch, Params, Tree

PrecisionName = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(PrecisionName)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossScale:
    """State of dynamic loss scaling, a part of the training state and so of checkpoints.

    Args:
        scale: Factor of the gradients inside the objective, float32 scalar.
        good_steps: Number of updates since its last change, int32 scalar.
    """

    scale: jax.Array
    good_steps: jax.Array


@dataclasses.dataclass(frozen=True)
class LossScaling:
    """How a loss scale changes.

    Args:
        initial: The scale at the start.
        growth_interval: Number of consecutive updates without overflow after which it is multiplied by `factor`.
        factor: A power of two, so that scaling is exact. An overflow divides the scale by it.
        smallest: Minimum of the scale. An overflow at this scale counts as a bad number.
        largest: Maximum of the scale.
    """

    initial: float = 2.0**15
    growth_interval: int = 2_000
    factor: float = 2.0
    smallest: float = 1.0
    largest: float = 2.0**24

    def __post_init__(self) -> None:
        powers = (self.initial, self.factor, self.smallest, self.largest)
        if any(not 0 < value < math.inf or math.frexp(value)[0] != 0.5 for value in powers):
            raise UsageError(f"the scales and the factor of a loss scale are powers of two, got {powers}.")
        if not self.smallest <= self.initial <= self.largest or self.factor <= 1 or self.growth_interval < 1:
            raise UsageError(
                "a loss scale needs smallest <= initial <= largest, a factor above 1 and a growth_interval of at least "
                f"1, got {self}."
            )


@dataclasses.dataclass(frozen=True)
class Precision:
    """A policy of dtypes.

    Args:
        params: Type of the stored and updated parameters.
        compute: Type of parameters, real numbers of the batch, `ctx.ema` and `ctx.frozen` inside the objective. Mutable
            collections, such as batch statistics, keep their type.
        output: Type of the terms and of their sums, at least float32.
        keep: Regular expression searched in the paths of parameters and batch, such as `"norm|weights"`. Matching
            leaves are not cast.
        scaling: Dynamic loss scaling; None: no loss scale.
    """

    params: str = "float32"
    compute: str = "float32"
    output: str = "float32"
    keep: str | None = None
    scaling: LossScaling | None = None

    def __post_init__(self) -> None:
        for name in ("params", "compute", "output"):
            _real_dtype(name, getattr(self, name))
        if jnp.promote_types(self.output, jnp.float32) != jnp.dtype(self.output):
            raise UsageError(f"output is {self.output}: losses are summed in float32 or wider.")
        if self.keep is not None:
            try:
                re.compile(self.keep)
            except re.error as error:
                raise UsageError(f"keep={self.keep!r} is not a regular expression: {error}.") from error

    def cast_params(self, params: Params) -> Any:
        """Returns parameters in their storage type; integers and keys are not changed."""
        return jax.tree.map(lambda leaf: _cast(leaf, self.params), params)

    def wrap(self, objective: Objective, *, cast: bool = True) -> Objective:
        """Returns the objective with the types of this policy.

        Args:
            objective: `(params, batch, ctx) -> terms` or `-> (terms, new_state)`.
            cast: False for a model that casts by itself, such as Flax modules with `dtype=precision.compute`; terms and
                loss scale are still handled.

        Returns:
            An objective of the same terms. The gradients have the type of the parameters; a loss scale in the context
            acts only inside.

        >>> seen = []
        >>> def objective(params, batch, ctx):
        ...     seen.append((params.dtype.name, batch["x"].dtype.name, batch["label"].dtype.name))
        ...     return {"product": Term(params * batch["x"], weights=1)}
        >>> wrapped = make_precision("bfloat16").wrap(objective)
        >>> batch = {"x": jnp.ones(2), "label": jnp.array([1, 2])}
        >>> terms = wrapped(jnp.array(1.0), batch, Context(jax.random.key(0), jnp.int32(0)))
        >>> seen, terms["product"].values.dtype.name
        ([('bfloat16', 'bfloat16', 'int32')], 'float32')
        """
        lower = self._lower if cast else (lambda tree: tree)

        def wrapped(params: Params, batch: Batch, ctx: Context) -> Terms | tuple[Terms, Any]:
            scale = None if ctx.loss_scale is None else ctx.loss_scale.scale
            if scale is not None:
                params = jax.tree.map(lambda leaf: _scaled(leaf, 1 / scale), params)
            inner = dataclasses.replace(ctx, ema=lower(ctx.ema), frozen=lower(ctx.frozen))
            result = objective(lower(params), lower(batch), inner)
            terms, new = result if isinstance(result, tuple) else (result, None)
            terms = {name: self._raise(term, scale) for name, term in terms.items()}
            if not isinstance(result, tuple):
                return terms
            return terms, jax.tree.map(lambda x, old: _cast(x, jnp.result_type(old)), new, ctx.state)

        return wrapped

    def loss_scale(self) -> LossScale | None:
        """Returns the first loss scale, for `create_state(..., loss_scale=...)`; None without loss scaling."""
        if self.scaling is None:
            return None
        return LossScale(jnp.float32(self.scaling.initial), jnp.int32(0))

    def scaled(self, step: Step) -> Step:
        """Lets a train step adapt the loss scale; without loss scaling, returns the step unchanged.

        A finite loss with a gradient that is not finite is an overflow, as long as the scale can be lowered. It is
        reported as the metric `"overflow"` and does not count as a bad number.

        Args:
            step: A step from `skip_nonfinite`, not yet placed on devices.

        Returns:
            The step with the further metrics `"overflow"` and `"loss_scale"` (the scale used in the step).
        """
        return step if self.scaling is None else dynamic_loss_scale(step, self.scaling)

    def _lower(self, tree: Tree) -> Any:
        def cast(path: str, leaf: Any) -> Any:
            kept = self.keep is not None and re.search(self.keep, path) is not None
            return leaf if kept else _cast(leaf, self.compute)

        return map_with_path(cast, tree)

    def _raise(self, term: Term, scale: Any) -> Term:
        dtype = jnp.promote_types(jnp.result_type(term.values), self.output)
        values = jnp.asarray(term.values, dtype)
        return dataclasses.replace(term, values=values if scale is None else _scaled(values, scale))


def make_precision(name: PrecisionName) -> Precision:
    """Returns a policy by name.

    Args:
        name: `"float32"` everywhere; `"bfloat16"` or `"float16"` to compute, with parameters and sums in float32,
            and for float16 a dynamic loss scale.

    >>> make_precision("bfloat16")
    Precision(params='float32', compute='bfloat16', output='float32', keep=None, scaling=None)
    """
    check_name("precision", name, PRECISIONS)
    return Precision(compute=name, scaling=LossScaling() if name == "float16" else None)


def dynamic_loss_scale(step: Step, scaling: LossScaling) -> Step:
    """Lets a train step adapt its loss scale; see `Precision.scaled`."""

    def body(state: Any, batch: Batch, sync: Sync) -> tuple[Any, Any]:
        if state.loss_scale is None:
            raise UsageError("the state has no loss scale: use create_state(..., loss_scale=precision.loss_scale()).")
        new, metrics = step.body(state, batch, sync)
        if "skipped" not in metrics:
            raise UsageError("a loss scale is found by skipped steps: give skip_nonfinite(step) to Precision.scaled.")
        skipped, one = metrics["skipped"]
        scale = state.loss_scale.scale
        only_gradient = jnp.isfinite(metrics["loss"][0]) & ~jnp.isfinite(metrics["grad_norm"][0])
        overflow = (skipped > 0) & only_gradient & (scale > scaling.smallest)
        after = _adapt(state.loss_scale, scaling, done=skipped == 0, overflow=overflow)
        reported = {"overflow": (jnp.where(overflow, one, 0), one), "loss_scale": (scale, one)}
        return new.replace(loss_scale=after), metrics | reported

    return dataclasses.replace(step, body=body)


def _adapt(old: LossScale, scaling: LossScaling, done: jax.Array, overflow: jax.Array) -> LossScale:
    """The loss scale after a step. A bad number that is not an overflow does not change it."""
    good_steps = jnp.where(done, old.good_steps + 1, old.good_steps)
    grow = done & (good_steps >= scaling.growth_interval)
    scale = jnp.where(grow, jnp.minimum(old.scale * scaling.factor, scaling.largest), old.scale)
    scale = jnp.where(overflow, jnp.maximum(old.scale / scaling.factor, scaling.smallest), scale)
    return LossScale(scale, jnp.where(grow | overflow, 0, good_steps))


@jax.custom_jvp
def _scale_gradient(x: jax.Array, scale: jax.Array) -> jax.Array:
    """The identity, with a gradient multiplied by the constant `scale`."""
    del scale
    return x


@_scale_gradient.defjvp
def _scale_tangent(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    (x, scale), (tangent, _) = primals, tangents
    return x, tangent * scale.astype(jnp.result_type(tangent))


def _scaled(leaf: Any, scale: jax.Array) -> Any:
    return _scale_gradient(leaf, scale) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else leaf


def _cast(leaf: Any, dtype: Any) -> Any:
    """Casts a leaf of real numbers."""
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return leaf
    return jnp.asarray(leaf, dtype)


def _real_dtype(name: str, dtype: str) -> None:
    try:
        real = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        real = False
    if not real:
        raise UsageError(f"{name} is {dtype!r}: give the name of a type of real numbers, such as float32 or bfloat16.")
