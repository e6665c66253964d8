"""Wrappers of whole optimizers: averages of parameters, and gradients at other parameters.

SAM and Sophia need `grad_fn=`, a function from parameters to the gradient of the step's global batch, which
`build_train_step` passes to its optimizer; so they give the same numbers for every split of a batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from train.errors import UsageError
from train.optimizers.links import is_masked
from train.optimizers.norms import global_norm
from train.state import TrainState
from train.trees import Params, Tree


class SlowWeights(NamedTuple):
    """State of Lookahead: slow weights, steps since their last move, and state of the fast optimizer."""

    slow: Any
    sync: Any
    fast: Any


def lookahead(fast: optax.GradientTransformation, *, every: int, rate: float) -> optax.GradientTransformationExtraArgs:
    """Lookahead with the slow weights in its own state: every k steps `slow += rate * (fast - slow); fast = slow`.

    `optax.lookahead`, which does the arithmetic, requires pairs of parameters and passes neither the loss nor a
    gradient function to its optimizer.

    Args:
        fast: The optimizer of the fast weights.
        every: k, the number of steps between two synchronisations.
        rate: Fraction of the way that the slow weights move, in (0, 1].

    Returns:
        The optimizer; `evaluation_params` returns the slow weights.

    References:
        Zhang et al. 2019, arXiv:1907.08610.

    >>> optimizer, w = lookahead(optax.sgd(1.0), every=2, rate=0.5), jnp.array(4.0)
    >>> state = optimizer.init(w)
    >>> for _ in range(2):  # 4 -> 3 -> 2, then halfway back to 4
    ...     updates, state = optimizer.update(jnp.array(1.0), state, w)
    ...     w = optax.apply_updates(w, updates)
    >>> print(w, state.slow)
    3.0 3.0
    """
    fast = optax.with_extra_args_support(fast)
    synchronisation = optax.lookahead(optax.identity(), every, rate)

    def init(params: Params) -> SlowWeights:
        pair = optax.LookaheadParams.init_synced(params)
        return SlowWeights(jax.tree.map(jnp.copy, params), synchronisation.init(pair), fast.init(params))

    def update(grads: Tree, state: SlowWeights, params: Params = None, **extra: Any) -> tuple[Any, SlowWeights]:
        updates, inner = fast.update(grads, state.fast, params, **extra)
        pair = optax.LookaheadParams(params, state.slow)
        moves, sync = synchronisation.update(updates, state.sync, pair)
        return moves.fast, SlowWeights(optax.apply_updates(state.slow, moves.slow), sync, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def schedule_free(
    base: optax.GradientTransformation, schedule: optax.Schedule, b1: float
) -> optax.GradientTransformationExtraArgs:
    """`optax.contrib.schedule_free` with averages weighted by the learning rate of each step.

    Optax evaluates the schedule one step ahead of the base optimizer, which differs during a warm-up.

    Args:
        base: An optimizer without momentum.
        schedule: Its learning rate, with a warm-up and no decay.
        b1: Position of the gradient between iterate (0) and average (1).

    Returns:
        The optimizer; `evaluation_params` returns the average.

    References:
        Defazio et al. 2024, arXiv:2405.15682.
    """
    return contrib.schedule_free(base, lambda count: schedule(count - 1), b1)


def evaluation_params(state: TrainState) -> Any:
    """The parameters to evaluate and export: the average of an averaging optimizer, otherwise `state.params`.

    A schedule-free optimizer gives its average, Lookahead its slow weights. Evaluation steps use these parameters
    automatically; use this function to export a trained model.

    Args:
        state: The state of a run, at any step.

    Returns:
        Parameters like `state.params`.

    >>> from train.state import create_state
    >>> optimizer = lookahead(optax.sgd(1.0), every=5, rate=0.5)
    >>> state = create_state({"w": jnp.array(4.0)}, optimizer, key=0)
    >>> updates, opt_state = optimizer.update({"w": jnp.array(1.0)}, state.opt_state, state.params)
    >>> state = state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)
    >>> print(state.params["w"], evaluation_params(state)["w"])
    3.0 4.0
    """
    kinds = (contrib.ScheduleFreeState, SlowWeights)
    nodes = jax.tree.leaves(state.opt_state, is_leaf=lambda node: isinstance(node, kinds))
    found = next((node for node in nodes if isinstance(node, kinds)), None)
    if found is None:
        return state.params
    if isinstance(found, SlowWeights):
        return _filled(found.slow, state.params)
    averaged = contrib.schedule_free_eval_params(found, _masked_like(found.z, state.params))
    averaged = jax.tree.map(lambda x, p: x.astype(p.dtype), _filled(averaged, state.params), state.params)
    return averaged


def sharpness_aware(optimizer: optax.GradientTransformation, radius: float) -> optax.GradientTransformationExtraArgs:
    """SAM: replaces the gradient g by the gradient at `w + radius * g / |g|` (the paper's rho).

    `optax.contrib.sam` passes no loss to its optimizer, and divides 0 by 0 for a zero gradient.

    Returns:
        The optimizer without further state; its update needs `grad_fn=`.

    References:
        Foret et al. 2021, arXiv:2010.01412. Both gradients are of the global batch, not of one device (the paper's
        m-sharpness).

    >>> optimizer, w = sharpness_aware(optax.sgd(0.5), radius=1.0), jnp.array(2.0)
    >>> gradient = jax.grad(lambda w: w**2)  # at 2 + 1 it is 6
    >>> print(optimizer.update(gradient(w), optimizer.init(w), w, grad_fn=gradient)[0])
    -3.0
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def update(grads: Tree, state: Any, params: Params = None, *, grad_fn: Any = None, **extra: Any) -> tuple[Any, Any]:
        _check_grad_fn(grad_fn, "sam_radius")
        norm = global_norm(grads)
        unit = jnp.where(norm == 0, 1, norm)
        ascended = jax.tree.map(lambda w, g: w + (radius * (g / unit)).astype(w.dtype), params, grads)
        updates, state = optimizer.update(grad_fn(ascended), state, params, grad_fn=grad_fn, **extra)
        return updates, state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def hutchinson(seed: int = 0) -> optax.GradientTransformationExtraArgs:
    """Unbiased estimates of the Hessian's diagonal: `s * (H s)` with random signs s.

    Unlike `optax.contrib.hutchinson_estimator_diag_hessian` it differentiates the gradient of the global batch, so the
    estimate is the same on all devices and for every split of a batch.

    Args:
        seed: Seed of the signs; the signs of the n-th estimate depend only on the seed and n.

    Returns:
        A transformation that returns the estimate instead of the gradient; its update needs `grad_fn=`.

    >>> gradient = jax.grad(lambda w: w[0] ** 2 + 3 * w[1] ** 2)  # the Hessian is diagonal: the estimate is exact
    >>> estimator, w = hutchinson(), jnp.ones(2)
    >>> print(estimator.update(None, estimator.init(w), w, grad_fn=gradient)[0])
    [2. 6.]
    """

    def update(grads: Tree, count: Any, params: Params = None, *, grad_fn: Any = None, **extra: Any) -> tuple[Any, Any]:
        _check_grad_fn(grad_fn, "sophia")
        key = jax.random.fold_in(jax.random.key(seed), count)
        signs = optax.tree.random_like(key, params, jax.random.rademacher)
        product = jax.jvp(grad_fn, (params,), (signs,))[1]
        return jax.tree.map(lambda s, h: s * h, signs, product), count + 1

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros((), jnp.int32), update)


def gradients_of_parts(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Allows an optimizer to call `grad_fn` with masked parameters, which keep their values."""
    optimizer = optax.with_extra_args_support(optimizer)

    def update(grads: Tree, state: Any, params: Params = None, *, grad_fn: Any = None, **extra: Any) -> tuple[Any, Any]:
        def of_part(part: Any) -> Any:
            return _masked_like(part, grad_fn(_filled(part, params)))

        updates, state = optimizer.update(grads, state, params, grad_fn=grad_fn and of_part, **extra)
        return updates, state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _filled(part: Any, whole: Any) -> Any:
    """Fills the masked places of a tree from another one."""
    return jax.tree.map(lambda x, full: full if is_masked(x) else x, part, whole, is_leaf=is_masked)


def _masked_like(part: Any, whole: Any) -> Any:
    """Masks a tree like the first one."""
    return jax.tree.map(lambda x, full: x if is_masked(x) else full, part, whole, is_leaf=is_masked)


def _check_grad_fn(grad_fn: Any, who: str) -> None:
    if grad_fn is None:
        raise UsageError(
            f"{who} needs grad_fn=, a function from parameters to gradients: train with build_train_step and without "
            "task_gradients, or pass it to update."
        )
