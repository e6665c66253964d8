"""Reptile: the update rule of first-order meta-learning as the gradient of an objective; see `objectives.meta`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from train.errors import UsageError
from train.objective import Context, Objective, Term, Terms
from train.objectives import inner_loop
from train.objectives.inner_loop import InnerLoop
from train.optimizers.schedules import Rate
from train.trees import Batch, Params


def reptile(
    objective: Objective,
    *,
    inner_rate: Rate,
    steps: int,
    loss_weights: Mapping[str, Rate],
    minibatches: bool = False,
) -> Objective:
    r"""Reptile's update rule $\theta \leftarrow \theta + \epsilon \operatorname{mean}_i (\theta_i - \theta)$.

    This is gradient descent (`optax.sgd`) at rate $\epsilon$ on $\tfrac12 \lVert \theta - \theta_i \rVert^2$ with
    constant $\theta_i$, so other optimizers work as well. The inner loop is not differentiated.

    Args:
        objective: Objective of a single task, as for `maml`, without a term named `"reptile"`.
        inner_rate: As for `maml`.
        steps: Number of inner steps, at least 1; with 1, Reptile is joint training.
        loss_weights: As for `maml`.
        minibatches: The support has shape `[T, steps, ...]`: different rows for each inner step, as in the paper.

    Returns:
        An objective of `{"support": ...}` with the term `"reptile"` to train on with loss weight 1: one value for each
        task with some weight in its support. If the batch has a `"query"`, its terms at the adapted parameters are
        reported without gradient.

    References:
        Nichol et al. 2018, arXiv:1803.02999.

    >>> def objective(params, rows, ctx):
    ...     return {"half": Term((params - rows["x"]) ** 2 / 2, weights=1)}
    >>> method = reptile(objective, inner_rate=0.5, steps=2, loss_weights={"half": 1.0})
    >>> batch = {"support": {"x": jax.numpy.array([[4.0], [8.0]])}}  # 0 -> 2 -> 3 and 0 -> 4 -> 6
    >>> ctx = Context(jax.random.key(0), jax.numpy.int32(0))
    >>> print(jax.grad(lambda p: method(p, batch, ctx)["reptile"].sums()[0])(0.0))  # -(3 - 0) - (6 - 0)
    -9.0
    """
    if steps < 1:
        raise UsageError(f"reptile needs at least 1 inner step, got {steps}.")
    inner = InnerLoop(objective, inner_rate, steps, loss_weights, first_order=True, minibatches=minibatches)

    def task(params: Params, rows: Batch, ctx: Context) -> tuple[Terms, Any]:
        adapted, state = inner.adapt(jax.lax.stop_gradient(params), rows["support"], ctx)
        terms, state = inner.query(adapted, rows, ctx, state) if "query" in rows else ({}, state)
        half = inner_loop.distance(inner_loop.split(params)[0], inner_loop.split(adapted)[0]) / 2
        moved = Term(half, inner.any_weight(params, rows["support"], ctx))
        return inner_loop.with_term(terms, "reptile", moved), state

    return inner_loop.over_tasks(task, optional=("query",))
