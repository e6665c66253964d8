"""Multi-task weighting: adaptive weights of several losses.

A `Weighting` is an `(init, update)` pair. As the first link of an Optax chain its state is part of the optimizer's, and
the step needs no branch for any method:

    optimizer = optax.chain(multi_task(dwa(), tasks=2), optax.adam(1e-3))
    step = build_train_step(objective, optimizer, loss_weights={"a": 1.0, "b": 0.5})

Some methods need the losses only (`fixed`, `scheduled`, `random_weighting`, `uncertainty`, `dwa`, `famo`): their
weights multiply the `loss_weights` of the next step, which still needs one backward pass. The others (`gradnorm`,
`mgda`, `pcgrad`, `cagrad`, `imtl_g`, `nash_mtl`, `aligned_mtl`, `upgrad`) need the Gram matrix of the gradients of all
tasks: build the step with `task_gradients=True`, which costs one backward pass per task. Tasks are ordered like
    `loss_weights`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from train.errors import UsageError
from train.objectives import gradient_combination
from train.optimizers.moments import squarable
from train.trees import Params, Tree


class Weighting(NamedTuple):
    """A method: `init(tasks) -> (weights, state)`, and `update` for the next of both.

    `update(weights, state, losses, gram, scale)` receives the losses [T] of the step and the inner products [T, T] of
    the tasks' gradients divided by `scale`, a power of two near their largest entry; a method with `from_gradients`
    False receives None and 1 instead. Its weights are for the next step; other methods return weights for the current
    step, unless `delayed`.
    """

    init: Callable[[int], tuple[jax.Array, Any]]
    update: Callable[..., tuple[jax.Array, Any]]
    from_gradients: bool = False
    delayed: bool = False


class LossWeights(NamedTuple):
    """State of a method that weights the losses of the next step."""

    loss_weights: jax.Array
    inner: Any


class GradientWeights(NamedTuple):
    """State of a method that combines the gradients of the tasks, with the weights used last."""

    gradient_weights: jax.Array
    inner: Any
    upcoming: Any = None


def multi_task(weighting: Weighting, tasks: int) -> optax.GradientTransformationExtraArgs:
    """The method as the first transformation of an optimizer.

    Args:
        weighting: The method.
        tasks: T, the number of entries of `loss_weights`.

    Returns:
        An Optax transformation. Its update takes `losses=` [T] from the train step. A method of gradients expects the
        gradients of all tasks, stacked along a new first axis.

    >>> transform = multi_task(mgda(), tasks=2)
    >>> gradients = jnp.array([[2.0, 0.0], [0.0, 1.0]])  # of a parameter of shape (2,)
    >>> combined, _ = transform.update(gradients, transform.init(jnp.zeros(2)), losses=jnp.ones(2))
    >>> print(combined.round(3))
    [0.4 0.8]
    """
    if tasks < 1:
        raise UsageError(f"multi_task weighs at least 1 task, got {tasks}.")

    def init(params: Params) -> Any:
        weights, inner = weighting.init(tasks)
        if not weighting.from_gradients:
            return LossWeights(weights, inner)
        return GradientWeights(weights, inner, weights if weighting.delayed else None)

    def update(updates: Tree, state: Any, params: Params = None, *, losses: jax.Array, **extra: Any) -> tuple[Any, Any]:
        if len(losses) != tasks:
            raise UsageError(f"multi_task was made for {tasks} tasks, but loss_weights names {len(losses)}.")
        # Methods of losses do not change the updates; the next step multiplies its loss weights by theirs.
        if isinstance(state, LossWeights):
            return updates, LossWeights(*weighting.update(state.loss_weights, state.inner, losses, None, 1.0))
        if any(x.ndim == 0 or x.shape[0] != tasks for x in jax.tree.leaves(updates)):
            raise UsageError(
                "this weighting combines the gradients of all tasks: build the step with task_gradients=True, and put "
                "multi_task first in the chain."
            )
        # Methods of gradients combine them, by weights for this step or (if delayed) from the step before.
        current = state.upcoming if weighting.delayed else state.gradient_weights
        weights, inner = weighting.update(
            current, state.inner, losses, *gradient_combination.scaled_gram_matrix(updates)
        )
        used = current if weighting.delayed else weights
        combined = jax.tree.map(lambda g: jnp.tensordot(used.astype(g.dtype), g, axes=1), updates)
        return combined, GradientWeights(used, inner, weights if weighting.delayed else None)

    return optax.GradientTransformationExtraArgs(init, update)


def current_weights(opt_state: Tree) -> jax.Array | None:
    """Weights [T] that multiply the loss weights of a step; None without a method that weights losses."""
    weights: jax.Array | None = optax.tree.get(opt_state, "loss_weights", None)
    return weights


def _of_losses(
    weigh: Callable[[Any, jax.Array], tuple[jax.Array, Any]], start: Callable[[int], tuple[jax.Array, Any]]
) -> Weighting:
    return Weighting(start, lambda weights, state, losses, gram, scale=1.0: weigh(state, losses))


def fixed(weights: Sequence[float]) -> Weighting:
    """Constant weights, multiplied with `loss_weights`.

    >>> fixed((1.0, 0.5)).init(2)[0].tolist()
    [1.0, 0.5]
    """
    array = jnp.asarray(weights, jnp.float32)
    return _of_losses(lambda state, losses: (array, state), lambda tasks: (_sized(array, tasks), ()))


def scheduled(schedules: Sequence[Callable[[jax.Array], Any]]) -> Weighting:
    """Weights that are functions of the number of updates.

    >>> scheduled([optax.linear_schedule(1.0, 0.0, 4)] * 2).update(None, jnp.int32(0), jnp.ones(2), None)[0].tolist()
    [0.75, 0.75]
    """

    def at(count: jax.Array) -> jax.Array:
        return jnp.stack([jnp.asarray(schedule(count), jnp.float32) for schedule in schedules])

    return _of_losses(
        lambda count, losses: (at(count + 1), count + 1),
        lambda tasks: (_sized(at(jnp.int32(0)), tasks), jnp.zeros((), jnp.int32)),
    )


def random_weighting(key: jax.Array) -> Weighting:
    """Softmax of normal numbers, drawn at each step: weights with sum 1.

    References:
        Lin et al. 2021, arXiv:2111.10603 (RLW).
    """

    def draw(count: jax.Array, tasks: int) -> jax.Array:
        return jax.nn.softmax(jax.random.normal(jax.random.fold_in(key, count), (tasks,)))

    return _of_losses(
        lambda count, losses: (draw(count + 1, len(losses)), count + 1),
        lambda tasks: (draw(jnp.int32(0), tasks), jnp.zeros((), jnp.int32)),
    )


def uncertainty(factors: Sequence[float], *, optimizer: optax.GradientTransformation | None = None) -> Weighting:
    r"""Learned uncertainty: also minimises $\sum_i k_i e^{-s_i} L_i + s_i / 2$ over log-variances $s_i$.

    Args:
        factors: $k_i$: 1/2 for a squared error (Gaussian likelihood), 1 for a cross-entropy.
        optimizer: Optimizer of the log-variances, which start at 0; SGD at 0.01 by default.

    Returns:
        The method with weights $k_i e^{-s_i}$, initially the factors. The loss reported by a step omits $s_i / 2$.

    References:
        Kendall et al. 2017, arXiv:1705.07115.

    >>> method = uncertainty((0.5, 1.0), optimizer=optax.sgd(1.0))
    >>> weights, state = method.init(2)
    >>> weights, state = method.update(weights, state, jnp.array([1.0, 1.5]), None)  # at the optimum; s grows by 1
    >>> [round(x, 4) for x in weights.tolist()]
    [0.5, 0.3679]
    """
    k = jnp.asarray(factors, jnp.float32)
    inner = optax.sgd(0.01) if optimizer is None else optimizer

    def start(tasks: int) -> tuple[jax.Array, Any]:
        log_variances = jnp.zeros_like(_sized(k, tasks))
        return k, (log_variances, inner.init(log_variances))

    def weigh(state: Any, losses: jax.Array) -> tuple[jax.Array, Any]:
        log_variances, opt_state = state
        grad = 0.5 - k * jnp.exp(-log_variances) * losses
        updates, opt_state = inner.update(grad, opt_state, log_variances)
        log_variances = jnp.asarray(optax.apply_updates(log_variances, updates))
        return k * jnp.exp(-log_variances), (log_variances, opt_state)

    return _of_losses(weigh, start)


def dwa(*, temperature: float = 2.0, period: int = 1) -> Weighting:
    """Dynamic weight averaging: larger weights for tasks with slowly decreasing losses; the weights have sum T.

    Args:
        temperature: Temperature of the softmax over the ratios of a task's last two losses.
        period: Number of steps over which losses are averaged before the comparison; an epoch in the paper.

    References:
        Liu et al. 2018, arXiv:1803.10704.

    >>> method = dwa(temperature=1.0)
    >>> weights, state = method.init(2)
    >>> for losses in ([2.0, 2.0], [2.0, 1.0]):  # ratios 1 and 1/2
    ...     weights, state = method.update(weights, state, jnp.array(losses), None)
    >>> [round(x, 4) for x in weights.tolist()]
    [1.2449, 0.7551]
    """
    if temperature <= 0 or period < 1:
        raise UsageError(
            f"dwa needs a positive temperature and a period of at least 1, got {temperature} and {period}."
        )

    def start(tasks: int) -> tuple[jax.Array, Any]:
        nothing = jnp.zeros(tasks)
        return jnp.ones(tasks), (jnp.zeros((), jnp.int32), nothing, nothing, nothing)

    def weigh(state: Any, losses: jax.Array) -> tuple[jax.Array, Any]:
        count, total, last, before = state
        count, total = count + 1, total + losses
        ends = count % period == 0
        last, before = jnp.where(ends, total / period, last), jnp.where(ends, last, before)
        ratio = jnp.where(before > 0, last / jnp.where(before > 0, before, 1), 1)
        weights = len(losses) * jax.nn.softmax(ratio / temperature)
        return jnp.where(count >= 2 * period, weights, 1), (count, jnp.where(ends, 0, total), last, before)

    return _of_losses(weigh, start)


def famo(*, learning_rate: float = 0.025, decay: float = 0.001, min_losses: Sequence[float] | None = None) -> Weighting:
    r"""Fast adaptive multi-task optimisation: equal relative decrease of all losses, without further gradients.

    The weights are $c\, z_i / (L_i - L_i^{\min})$ with $z = \mathrm{softmax}(\xi)$ and c such that they have sum 1;
    Adam moves $\xi$ against the last decrease of each $\log (L_i - L_i^{\min} + 10^{-8})$.

    Args:
        learning_rate: Learning rate of $\xi$.
        decay: Factor of $\xi$ in its gradient, which pulls it towards 0.
        min_losses: $L_i^{\min}$, the minimum of each loss; 0 by default.

    Returns:
        The method, for losses above their minimum. The authors evaluate the loss of a batch again after the update;
        here the decrease is measured between the losses of consecutive steps, and weights depend on the previous loss:
        one forward pass per step. The default decay of the authors' code is 0.01, and 0.001 in most of its experiments,
        as in LibMTL.

    References:
        Liu et al. 2023, arXiv:2306.03792.

    >>> method = famo()
    >>> weights, state = method.init(2)
    >>> for loss in (1.0, 0.98):  # the first gains: Adam's first step is as long as its rate
    ...     weights, state = method.update(weights, state, jnp.array([loss, 1.0]), None)
    >>> print(state[0].round(4))
    [-0.025  0.025]
    """
    adam = optax.chain(optax.add_decayed_weights(decay), optax.adam(learning_rate))

    def start(tasks: int) -> tuple[jax.Array, Any]:
        xi = jnp.zeros(tasks)
        return jnp.full(tasks, 1 / tasks), (xi, jnp.zeros(tasks), jnp.zeros((), bool), adam.init(xi))

    def weigh(state: Any, losses: jax.Array) -> tuple[jax.Array, Any]:
        xi, before, begun, opt_state = state
        least = 0.0 if min_losses is None else _sized(jnp.asarray(min_losses, jnp.float32), len(losses))
        logs = jnp.log(jnp.maximum(losses - least, 0) + 1e-8)
        z = jax.nn.softmax(xi)
        gain = before - logs
        moves, moved = adam.update(z * (gain - z @ gain), opt_state, xi)
        xi = jnp.where(begun, xi + moves, xi)
        opt_state = jax.tree.map(lambda new, old: jnp.where(begun, new, old), moved, opt_state)
        weights = jax.nn.softmax(jax.nn.log_softmax(xi) - logs)
        return weights, (xi, logs, jnp.ones((), bool), opt_state)

    return _of_losses(weigh, start)


def gradnorm(
    *, alpha: float = 1.5, learning_rate: float = 0.025, optimizer: optax.GradientTransformation | None = None
) -> Weighting:
    r"""GradNorm: moves weights until the norms of weighted gradients are larger for tasks that learn slowly.

    One step of descent on $\sum_i | w_i \lVert g_i \rVert - \bar G\, r_i^\alpha |$, with $r_i$ the loss over its first
    value, over the mean of those, $\bar G$ the mean length and the right side a constant; then the weights are scaled
    to sum T.

    Args:
        alpha: Strength of the preference for slow tasks.
        learning_rate: Learning rate of the weights.
        optimizer: Optimizer of the weights instead of Adam at that rate. Adam moves them at the same speed for
            gradients of any size; `optax.sgd(rate)` takes plain steps.

    References:
        Chen et al. 2018, arXiv:1711.02257. The paper uses the gradients of one shared layer, here all parameters.
    """
    inner = squarable(optax.adam(learning_rate)) if optimizer is None else optimizer

    def start(tasks: int) -> tuple[jax.Array, Any]:
        return jnp.ones(tasks), (jnp.zeros(tasks), jnp.zeros((), bool), inner.init(jnp.ones(tasks)))

    def update(
        weights: jax.Array, state: Any, losses: jax.Array, products: Any, scale: Any = 1.0
    ) -> tuple[jax.Array, Any]:
        first, begun, opt_state = state
        first = jnp.where(begun, first, losses)
        norms = scale * jnp.sqrt(jnp.maximum(jnp.diagonal(products), 0))
        progress = jnp.where(first > 0, losses / jnp.where(first > 0, first, 1), 1)
        pace = progress / jnp.maximum(jnp.mean(progress), 1e-12)
        target = jnp.mean(weights * norms) * pace**alpha
        moves, opt_state = inner.update(norms * jnp.sign(weights * norms - target), opt_state, weights)
        moved = jnp.maximum(jnp.asarray(optax.apply_updates(weights, moves)), 1e-6)
        return moved * len(losses) / jnp.sum(moved), (first, jnp.ones((), bool), opt_state)

    return Weighting(start, update, from_gradients=True, delayed=True)


def _of_gram(weigh: Callable[[jax.Array], jax.Array]) -> Weighting:
    return Weighting(
        lambda tasks: (jnp.full(tasks, 1 / tasks), ()),
        lambda weights, state, losses, products, scale=1.0: (weigh(products), state),
        from_gradients=True,
    )


def mgda() -> Weighting:
    """The shortest convex combination of the gradients; see `train.objectives.gradient_combination.min_norm`."""
    return _of_gram(gradient_combination.min_norm)


def pcgrad(key: jax.Array) -> Weighting:
    """Conflicting components projected away in random order; see `gradient_combination`."""
    return Weighting(
        lambda tasks: (jnp.full(tasks, 1 / tasks), jnp.zeros((), jnp.int32)),
        lambda weights, count, losses, products, scale=1.0: (
            gradient_combination.pcgrad(products, jax.random.fold_in(key, count)),
            count + 1,
        ),
        from_gradients=True,
    )


def cagrad(*, c: float = 0.4, rescale: bool = False) -> Weighting:
    """The best worst-case improvement near the mean gradient; see `train.objectives.gradient_combination.cagrad`."""
    if not 0 <= c < 1:
        raise UsageError(f"cagrad needs c of at least 0 and below 1, got {c}.")
    return _of_gram(functools.partial(gradient_combination.cagrad, c=c, rescale=rescale))


def imtl_g() -> Weighting:
    """Equal projections onto all gradients; see `train.objectives.gradient_combination.imtl_g`."""
    return _of_gram(gradient_combination.imtl_g)


def nash_mtl() -> Weighting:
    """The Nash bargaining solution; see `train.objectives.gradient_combination.nash_mtl`."""
    return Weighting(
        lambda tasks: (jnp.full(tasks, 1 / tasks), ()),
        lambda weights, state, losses, products, scale=1.0: (gradient_combination.nash_mtl(products) / scale, state),
        from_gradients=True,
    )


def aligned_mtl() -> Weighting:
    """Gradients made orthogonal and equally long; see `train.objectives.gradient_combination.aligned_mtl`."""
    return _of_gram(gradient_combination.aligned_mtl)


def upgrad() -> Weighting:
    """Each gradient projected to harm no task, then the mean; see `train.objectives.gradient_combination.upgrad`."""
    return _of_gram(gradient_combination.upgrad)


def _sized(weights: jax.Array, tasks: int) -> jax.Array:
    if weights.shape != (tasks,):
        raise UsageError(f"expected one number for each of {tasks} tasks, got {len(weights)}.")
    return weights
