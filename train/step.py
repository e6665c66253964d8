"""The train step: two scans, one optimizer update, and metrics that are sums until the very end.

The denominators of all terms depend on the batch only. A first scan over the micro-batches keeps nothing but the sums
of the weights, and the compiler strips the model from it. A second scan accumulates the gradients of
`sum(values * weights) / global_denominator`. So a step gives the same numbers for every split of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.checks import Report, check_report
from train.errors import UsageError, check_count
from train.objective import Context, Objective, Sums, Terms, check_loss_weights, evaluate
from train.objectives.task_weighting import current_weights
from train.optimizers.norms import global_norm
from train.optimizers.schedules import Rate, rate_at
from train.optimizers.wrappers import evaluation_params
from train.parallel import Step, Sync, check_batch, micro_batches
from train.paths import check_leaves
from train.state import TrainState, average
from train.trees import Batch, Params, Tree, widen


def build_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    loss_weights: Mapping[str, Rate],
    accumulate: int = 1,
    ema_decay: Rate | None = None,
    task_gradients: bool = False,
    checks: bool = False,
) -> Step:
    """Builds `(state, batch) -> (state, metrics)`.

    The loss is `sum over terms of loss_weight * sum(values * weights) / sum(weights)` with sums over the global batch.
    A term with total weight 0 contributes 0, with zero gradient.

    Args:
        objective: `(params, batch, ctx) -> {name: Term}`, or `-> (terms, new_state)`.
        optimizer: An Optax gradient transformation. It also receives `value=` the loss, `losses=` the means [T] of the
            terms trained on, and `grad_fn=` a function from parameters to the global gradient of this batch. It may
            begin with a `train.multi_task` weighting.
        loss_weights: The terms to train on, each with a number or an Optax schedule of the step.
        accumulate: Number of micro-batches, which must divide the batch of each device. Micro-batch j is made of the
            rows j, j + accumulate, ...
        ema_decay: Decay of `state.ema`, a number or a schedule of the step (see `train.ema_decay_schedule`).
        task_gradients: Give the optimizer the gradients of all T terms, stacked along a new first axis, for a weighting
            that combines them. They cost T backward passes. `"grad_norm"` is the norm of their sum.
        checks: Check inside the compiled step that losses and gradients are finite and weights neither negative nor
            NaN.

    Returns:
        The step. Its metrics are `{name: (sum(values * weights), sum(weights))}` of each term over the global batch,
        and `"loss"` and `"grad_norm"` (the norm before clipping), both with weight 1.

    >>> from train import Term, create_state
    >>> def objective(params, batch, ctx):
    ...     return {"square": Term((params - batch["x"]) ** 2, batch["valid"])}
    >>> step = build_train_step(objective, optax.sgd(0.5), loss_weights={"square": 1.0}, accumulate=2)
    >>> batch = {"x": jnp.array([1.0, 2.0, 3.0, 9.0]), "valid": jnp.array([True, True, True, False])}
    >>> state, metrics = step(create_state(jnp.zeros(()), optax.sgd(0.5), key=0), batch)
    >>> print(metrics["square"][0], metrics["square"][1], state.params)  # 1 + 4 + 9, and the mean of the valid
    14.0 3.0 2.0
    """
    if not loss_weights:
        raise UsageError("loss_weights is empty: name at least one term of the objective to train on.")
    accumulate = check_count("accumulate", accumulate)
    optimizer = optax.with_extra_args_support(optimizer)

    def body(state: TrainState, batch: Batch, sync: Sync) -> tuple[TrainState, Sums]:
        check_batch(batch, accumulate=accumulate)
        check_leaves(
            state.params,
            "the parameter tree",
            (jnp.inexact,),
            "Only real numbers can be trained: give counters, masks and keys to create_state as state=, and "
            "constants as frozen=.",
        )
        if ema_decay is not None and state.ema is None:
            raise UsageError("ema_decay is given, but the state keeps no average: use create_state(..., ema=True).")
        given = {name: rate_at(rate, state.step) for name, rate in loss_weights.items()}
        rates = _adapted(given, current_weights(state.opt_state))
        grads, report, collections = _gradients(objective, state, batch, rates, accumulate, sync, task_gradients)
        loss, losses = jnp.sum(_losses(report.sums, rates)), _losses(report.sums, given)
        grad_norm = global_norm(_sum_first(grads) if task_gradients else grads)
        if checks:
            # With a loss scale, a gradient beyond the range of float16 is no error: the scale is then lowered.
            check_report(report, rates, grad_norm if state.loss_scale is None else loss, state.step)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, state.params)

        def gradient_at(params: Params) -> Any:  # for SAM and Sophia
            there = _gradients(objective, state.replace(params=params), batch, rates, accumulate, sync, False)[0]
            return jax.tree.map(lambda g, p: g.astype(p.dtype), there, params)

        elsewhere = {} if task_gradients else {"grad_fn": gradient_at}
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params, value=loss, losses=losses, **elsewhere
        )
        params = optax.apply_updates(state.params, updates)
        ema = state.ema if ema_decay is None else average(state.ema, params, rate_at(ema_decay, state.step))
        one = jnp.ones((), loss.dtype)
        metrics = report.sums | {"loss": (loss, one), "grad_norm": (grad_norm, one)}
        return state.replace(
            step=state.step + 1, params=params, opt_state=opt_state, ema=ema, state=collections
        ), metrics

    return Step(body, trains=True, accumulate=accumulate, checks=checks)


def build_eval_step(
    objective: Objective, *, loss_weights: Mapping[str, Rate] | None = None, use_ema: bool = False
) -> Step:
    """Builds `(state, batch) -> metrics`: the same sums with `ctx.train` False, without an update.

    Args:
        objective: As for `build_train_step`.
        loss_weights: If given, the weighted total is reported as `"loss"`.
        use_ema: Evaluate `state.ema` instead of `train.evaluation_params`, which for most optimizers are
            `state.params`.

    Returns:
        The step. `train.accumulate` adds its sums over batches, `train.means` divides; the loss of several batches is
        `train.weighted_loss` of the added sums, not the mean of `"loss"`.
    """

    def body(state: TrainState, batch: Batch, sync: Sync) -> Sums:
        check_batch(batch)
        if use_ema and state.ema is None:
            raise UsageError("use_ema is set, but the state keeps no average: use create_state(..., ema=True).")
        rates = {name: rate_at(rate, state.step) for name, rate in (loss_weights or {}).items()}
        params = sync.local(state.ema if use_ema else evaluation_params(state))
        terms, _ = evaluate(objective, params, batch, _context(state, sync, 0, sync.local(state.state), train=False))
        check_loss_weights(rates, terms)
        sums: Sums = sync.sum({name: term.sums() for name, term in terms.items()})
        return sums | ({"loss": (jnp.sum(_losses(sums, rates)), jnp.ones(()))} if loss_weights else {})

    return Step(body, trains=False)


def _gradients(
    objective: Objective,
    state: TrainState,
    batch: Batch,
    rates: Mapping[str, Any],
    count: int,
    sync: Sync,
    task_gradients: bool,
) -> tuple[Any, Report, Any]:
    """Global gradients in at least float32, the global sums of all terms, and the new mutable collections."""
    params, collections = sync.local(state.params), sync.local(state.state)

    def forward(params: Params, collections: Any, index: Any, rows: Batch) -> tuple[Terms, Any]:
        terms, new = evaluate(objective, params, rows, _context(state, sync, index, collections))
        check_loss_weights(rates, terms)
        return terms, sync.local(new)

    # This device's part of the loss: its numerators over the global denominators. So parts and their gradients add up.
    def local_loss(params: Params, collections: Any, index: Any, rows: Batch, denominators: Any = None) -> Any:
        terms, new = forward(params, collections, index, rows)
        report = Report.of(terms)
        denominators = denominators or sync.sum({name: report.sums[name][1] for name in rates})
        own = {name: (report.sums[name][0], denominators[name]) for name in rates}
        losses = sync.local(_losses(own, rates))
        return losses if task_gradients else jnp.sum(losses), (sync.local(report), new)

    # The gradient of the sum, or the gradients of all terms [T, ...]: one forward pass, and a backward pass per term.
    def local_gradients(*args: Any) -> tuple[Any, Any]:
        if not task_gradients:
            grads, aux = jax.grad(local_loss, has_aux=True)(*args)
            return jax.tree.map(widen, grads), aux
        losses, pull_back, aux = jax.vjp(lambda params: local_loss(params, *args[1:]), args[0], has_aux=True)
        grads = jax.vmap(pull_back)(sync.local(jnp.eye(len(rates), dtype=losses.dtype)))[0]
        return jax.tree.map(widen, grads), aux

    # Loss terms only: the weights of a metric may depend on the model, which would then run twice.
    def sum_weights(collections: Any, micro: Any) -> tuple[Any, Any]:
        terms, new = forward(params, collections, *micro)
        return new, {name: sync.local(terms[name].sums()[1]) for name in rates}

    def accumulate(carry: Any, micro: Any) -> tuple[Any, Any]:
        total, collections = carry
        grads, (report, new) = local_gradients(params, collections, *micro, denominators)
        return (jax.tree.map(jnp.add, total, grads), new), report

    if count == 1:
        grads, (report, collections) = local_gradients(params, collections, 0, batch)
    else:
        micros = jnp.arange(count), micro_batches(batch, count)
        # First scan: the global denominators. Nothing else is used, so the compiler removes the model from it.
        _, weights = jax.lax.scan(sum_weights, collections, micros)
        denominators = sync.sum(_sum_first(weights))
        # Second scan: gradients added up, in at least float32 so that small ones are not lost.
        tasks = (len(rates),) if task_gradients else ()
        zeros = jax.tree.map(lambda p: jnp.zeros(tasks + p.shape, widen(p).dtype), params)
        (grads, collections), reports = jax.lax.scan(accumulate, (sync.local(zeros), collections), micros)
        report = _sum_first(reports)
    # Gradients and sums are added up over the devices here, once a step.
    grads, report = sync.sum((grads, report))
    return grads, report, jax.tree.map(_strong, sync.agree(collections))


def _context(state: TrainState, sync: Sync, index: Any, collections: Any, train: bool = True) -> Context:
    key = sync.fold(jax.random.fold_in(jax.random.fold_in(state.key, state.step), index))
    scale = state.loss_scale if train else None
    return Context(key, state.step, state.ema, state.frozen, collections, sync.axis_name, train, scale)


def _losses(sums: Sums, rates: Mapping[str, Any]) -> jax.Array:
    """`rate * sum / weight` of each term; 0 for a term with total weight 0."""
    ratios = {name: sums[name][0] / jnp.where(sums[name][1] == 0, 1, sums[name][1]) for name in rates}
    return jnp.stack([rate * ratios[name] for name, rate in rates.items()])


def _adapted(rates: dict[str, Any], weights: jax.Array | None) -> dict[str, Any]:
    """The loss weights times the weights of a multi-task weighting, if the optimizer begins with one."""
    return rates if weights is None else {name: rate * weights[i] for i, (name, rate) in enumerate(rates.items())}


def _strong(leaf: Any) -> jax.Array:
    """The array with a strong dtype. A weak one, as of `0.5 * 2`, would recompile the next step."""
    return jnp.asarray(leaf, jnp.result_type(leaf))


def _sum_first(tree: Tree) -> Any:
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), tree)
