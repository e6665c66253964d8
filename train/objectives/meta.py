r"""Meta-learning as objective -> objective: the result is trained by the same step as any other objective.

A batch holds tasks along its leading axis, each with data to adapt to and data for evaluation:

    batch = {"support": {"x": [T, K, ...], "y": [T, K]}, "query": {"x": [T, Q, ...], "y": [T, Q]}}
    step = build_train_step(
        maml(objective, inner_rate=0.1, steps=5, loss_weights={"ce": 1.0}), optimizer, loss_weights={"ce": 1.0}
    )

The given objective sees one task at a time: the adapted parameters $\theta_i$ and the support or query of the task. Its
query terms get the tasks as a new first axis. Tasks are the rows of the batch, so a step gives the same numbers for
every split over micro-batches and devices.

In the formulas $S_i$ is the inner loss, `loss_weights`-weighted means of terms over the support of task i, and $L_i$
the loss on its query. The step divides by the total weight of all queries. If tasks differ in weight but should count
equally, divide the weights of the objective's terms by their sum.

Within a task `ctx.axis_name` is None, because a task is on one device, and `ctx.key` differs between inner steps.
`ctx.state` passes through the inner steps and the query of each task; the final states of the tasks are combined, real
numbers by their mean and others by their maximum. In evaluation `ctx.train` is False in the inner loop too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from train.errors import UsageError
from train.objective import Context, Objective, Term, Terms
from train.objectives import inner_loop
from train.objectives.inner_loop import Head, InnerLoop, Leaves
from train.optimizers.schedules import Rate, rate_at
from train.trees import Batch, Params, shapes_of


def maml(
    objective: Objective,
    *,
    inner_rate: Rate,
    steps: int = 1,
    loss_weights: Mapping[str, Rate],
    first_order: bool = False,
) -> Objective:
    r"""MAML: minimises $\sum_i L_i(\theta_i)$ after a few steps of descent, through which it differentiates.

    $\theta_i$ starts at $\theta$ and makes the steps $\theta_i \leftarrow \theta_i - \alpha \nabla S_i(\theta_i)$. The
    meta-gradient of one step is $(I - \alpha \nabla^2 S_i(\theta)) \nabla L_i(\theta_i)$.

    Args:
        objective: Objective of a single task, `(params, rows, ctx) -> {name: Term}`, or `-> (terms, new_state)`.
        inner_rate: $\alpha$, a number, a (traced) array or a schedule of the outer step.
        steps: Number of inner steps; 0 evaluates the parameters themselves.
        loss_weights: The terms of the inner loss, each with a number or a schedule of the outer step.
        first_order: Treat the inner gradients as constants; see `first_order_maml`.

    Returns:
        An objective of `{"support": ..., "query": ...}`: the query terms at the adapted parameters with a new first
        axis T.

    References:
        Finn et al. 2017, arXiv:1703.03400.

    >>> def objective(params, rows, ctx):
    ...     return {"half": Term((params - rows["x"]) ** 2 / 2, weights=1)}
    >>> method = maml(objective, inner_rate=0.5, loss_weights={"half": 1.0})
    >>> batch = {"support": {"x": jnp.array([[4.0], [0.0]])}, "query": {"x": jnp.array([[4.0], [0.0]])}}
    >>> ctx = Context(jax.random.key(0), jnp.int32(0))
    >>> method(jnp.array(2.0), batch, ctx)["half"].values.tolist()  # 2 -> 3 and 2 -> 1, each half way
    [[0.5], [0.5]]
    """
    return _adapt_and_judge(InnerLoop(objective, inner_rate, steps, loss_weights, first_order))


def first_order_maml(
    objective: Objective, *, inner_rate: Rate, steps: int = 1, loss_weights: Mapping[str, Rate]
) -> Objective:
    r"""MAML with the inner gradients as constants: the meta-gradient is $\sum_i \nabla L_i(\theta_i)$.

    Arguments, adapted parameters and values are as in `maml`, at the cost and memory of a first derivative.

    References:
        Finn et al. 2017, arXiv:1703.03400. Nichol et al. 2018, arXiv:1803.02999.

    >>> def objective(params, rows, ctx):
    ...     return {"half": Term((params - rows["x"]) ** 2 / 2, weights=1)}
    >>> batch = {"support": {"x": jnp.array([[4.0]])}, "query": {"x": jnp.array([[4.0]])}}
    >>> ctx = Context(jax.random.key(0), jnp.int32(0))
    >>> for method in (maml, first_order_maml):
    ...     meta = method(objective, inner_rate=0.5, loss_weights={"half": 1.0})
    ...     print(jax.grad(lambda p, m=meta: m(p, batch, ctx)["half"].sums()[0])(2.0))  # (1 - 0.5) (3 - 4), and 3 - 4
    -0.5
    -1.0
    """
    return maml(objective, inner_rate=inner_rate, steps=steps, loss_weights=loss_weights, first_order=True)


def anil(
    objective: Objective,
    *,
    head: Head,
    inner_rate: Rate,
    steps: int = 1,
    loss_weights: Mapping[str, Rate],
    first_order: bool = False,
) -> Objective:
    """MAML with an inner loop for the head only; the rest learns in the outer loop.

    `head` selects the adapted parameters: a regular expression searched in their paths, or a predicate of a path
    (`"head/kernel"`). The other arguments are as in `maml`.

    References:
        Raghu et al. 2019, arXiv:1909.09157.

    >>> def objective(params, rows, ctx):
    ...     return {"half": Term((params["head"] * params["body"] - rows["x"]) ** 2 / 2, weights=1)}
    >>> method = anil(objective, head="head", inner_rate=0.5, loss_weights={"half": 1.0})
    >>> batch = {"support": {"x": jnp.array([[3.0]])}, "query": {"x": jnp.array([[3.0]])}}
    >>> params = {"body": jnp.array(1.0), "head": jnp.array(1.0)}
    >>> ctx = Context(jax.random.key(0), jnp.int32(0))
    >>> method(params, batch, ctx)["half"].values.tolist()  # the head moves from 1 to 2, the body stays at 1
    [[0.5]]
    """
    return _adapt_and_judge(InnerLoop(objective, inner_rate, steps, loss_weights, first_order, head))


def meta_sgd(
    objective: Objective, *, steps: int = 1, loss_weights: Mapping[str, Rate], first_order: bool = False
) -> Objective:
    r"""MAML with a learned rate for each parameter: $\theta_i \leftarrow \theta_i - a \circ \nabla S_i(\theta_i)$.

    The rates $a$ are trained with $\theta$ and may become negative. The parameters of the resulting objective are
    `{"params": theta, "inner_rates": a}`, from `meta_sgd_params`; exclude `inner_rates` from weight decay.

    The objective of a task receives $\theta_i$ only, and all inner steps use the same rates. The arguments are as in
    `maml`; with `first_order` the rates still receive the gradient $-\nabla S_i \circ \nabla L_i$.

    References:
        Li et al. 2017, arXiv:1707.09835.

    >>> def objective(params, rows, ctx):
    ...     return {"half": Term((params - rows["x"]) ** 2 / 2, weights=1)}
    >>> method = meta_sgd(objective, loss_weights={"half": 1.0})
    >>> batch = {"support": {"x": jnp.array([[4.0]])}, "query": {"x": jnp.array([[4.0]])}}
    >>> ctx = Context(jax.random.key(0), jnp.int32(0))
    >>> params = meta_sgd_params(jnp.array(2.0), 0.5)
    >>> grads = jax.grad(lambda p: method(p, batch, ctx)["half"].sums()[0])(params)
    >>> print(grads["params"], grads["inner_rates"])  # (1 - 0.5) (3 - 4), and -(2 - 4) (3 - 4)
    -0.5 -2.0
    """
    inner = InnerLoop(objective, None, steps, loss_weights, first_order)

    def task(params: Params, rows: Batch, ctx: Context) -> tuple[Terms, Any]:
        adapted, state = inner.adapt(
            params["params"], rows["support"], ctx, rates=jax.tree.leaves(params["inner_rates"])
        )
        return inner.query(adapted, rows, ctx, state)

    over_tasks = inner_loop.over_tasks(task)

    def meta(params: Params, batch: Batch, ctx: Context) -> Any:
        names = sorted(params) if isinstance(params, Mapping) else type(params).__name__
        if names != ["inner_rates", "params"] or shapes_of(params["params"]) != shapes_of(params["inner_rates"]):
            raise UsageError(
                "meta_sgd trains {'params': theta, 'inner_rates': a rate for each entry of theta}, got "
                f"{names if isinstance(names, str) else shapes_of(params)}: make it with meta_sgd_params."
            )
        return over_tasks(params, batch, ctx)

    return meta


def meta_sgd_params(params: Params, inner_rate: float) -> dict[str, Any]:
    """Parameters for `meta_sgd`, with an inner rate for each entry, all equal at first.

    >>> meta_sgd_params({"w": jnp.zeros(2)}, 0.5)["inner_rates"]["w"].tolist()
    [0.5, 0.5]
    """
    return {"params": params, "inner_rates": jax.tree.map(lambda p: jnp.full_like(p, inner_rate), params)}


def imaml(
    objective: Objective,
    *,
    weight: Rate,
    inner_rate: Rate,
    steps: int,
    loss_weights: Mapping[str, Rate],
    cg_steps: int = 20,
    cg_tolerance: float = 1e-6,
) -> Objective:
    r"""Implicit MAML: the meta-gradient at an inner minimum, independent of the path to it, in the memory of one step.

    $\theta_i = \arg\min_\phi S_i(\phi) + \tfrac{\lambda}{2} \lVert \phi - \theta \rVert^2$ has the meta-gradient
    $\sum_i (I + \tfrac{1}{\lambda} \nabla^2 S_i(\theta_i))^{-1} \nabla L_i(\theta_i)$, computed by conjugate gradients
    on Hessian-vector products. Gradient descent from $\theta$ searches the minimum. The meta-gradient is as accurate as
    this minimum, and $\lambda$ must exceed every negative curvature in size.

    Args:
        objective: Objective of a single task, as for `maml`. The inner loop does not change `ctx.state`.
        weight: $\lambda$, a number, an array or a schedule of the outer step.
        inner_rate: Rate of the descent, below $2 / (\lambda + \text{largest curvature})$.
        steps: Steps of the descent, at least 1.
        loss_weights: As for `maml`.
        cg_steps: Maximum number of Hessian-vector products; 5 in the paper.
        cg_tolerance: Residual, relative to the right-hand side, at which conjugate gradients stop earlier.

    References:
        Rajeswaran et al. 2019, arXiv:1909.04630.

    >>> def objective(params, rows, ctx):
    ...     return {"half": Term((params - rows["x"]) ** 2 / 2, weights=1)}
    >>> method = imaml(objective, weight=1.0, inner_rate=0.5, steps=1, loss_weights={"half": 1.0})
    >>> batch = {"support": {"x": jnp.array([[4.0]])}, "query": {"x": jnp.array([[4.0]])}}
    >>> ctx = Context(jax.random.key(0), jnp.int32(0))
    >>> print(jax.grad(lambda p: method(p, batch, ctx)["half"].sums()[0])(2.0))  # (3 - 4) / (1 + 1 / 1)
    -0.5
    """
    inner_loop.check_number("weight", weight, positive=True)
    if steps < 1 or cg_steps < 1:
        raise UsageError(f"imaml needs at least 1 step and 1 step of conjugate gradients, got {steps} and {cg_steps}.")
    inner = InnerLoop(objective, inner_rate, steps, loss_weights)

    def task(params: Params, rows: Batch, ctx: Context) -> tuple[Terms, Any]:
        start, join = inner_loop.split(params)
        strength, rate = rate_at(weight, ctx.step), rate_at(inner_rate, ctx.step)

        # 0 at the inner minimum. Its Jacobian I + H / lambda is the matrix of the meta-gradient.
        def stationary(fast: Leaves) -> Leaves:
            grads = jax.grad(lambda x: inner.loss(join(x), rows["support"], ctx, 0)[0])(fast)
            return [(x - x0 + g / strength).astype(x.dtype) for x, x0, g in zip(fast, start, grads, strict=True)]

        # Forward pass: gradient descent to the minimum.
        def descend(function: Callable[[Leaves], Leaves], fast: Leaves) -> Leaves:
            def move(fast: Leaves, _: Any) -> tuple[Leaves, None]:
                return [
                    (x - rate * strength * r).astype(x.dtype) for x, r in zip(fast, function(fast), strict=True)
                ], None

            return jax.lax.scan(move, fast, length=steps)[0]

        # Backward pass: solve for the implicit derivative. The matrix is symmetric, so its transpose needs no rule.
        def conjugate_gradients(linear: Callable[[Leaves], Leaves], right: Leaves) -> Leaves:
            found: Leaves = jax.scipy.sparse.linalg.cg(linear, right, x0=right, maxiter=cg_steps, tol=cg_tolerance)[0]
            return found

        def solve(linear: Callable[[Leaves], Leaves], right: Leaves) -> Leaves:
            solved: Leaves = jax.lax.custom_linear_solve(linear, right, conjugate_gradients, symmetric=True)
            return solved

        adapted = join(jax.lax.custom_root(stationary, start, descend, solve))
        return inner.query(adapted, rows, ctx, ctx.state)

    return inner_loop.over_tasks(task)


def proximal_meta(
    objective: Objective,
    *,
    weight: Rate,
    inner_rate: Rate,
    steps: int = 1,
    loss_weights: Mapping[str, Rate],
    through: bool = True,
) -> Objective:
    r"""Task parameters kept near the shared ones, $\sum_i L_i(\theta_i) + \lambda \lVert \theta_i - \theta \rVert^2$.

    $\theta_i$ results from `steps` of descent from $\theta$ on $S_i + \lambda \lVert \theta_i - \theta \rVert^2$. With
    equal support and query and a converged descent, $\theta$ descends on the Moreau envelope of the tasks' losses, with
    gradient $2 \lambda \sum_i (\theta - \theta_i)$.

    Args:
        objective: Objective of a single task, as for `maml`, without a term named `"proximal"`.
        weight: $\lambda$, a number, an array or a schedule of the outer step. There is no factor 1/2.
        inner_rate: As for `maml`.
        steps: As for `maml`.
        loss_weights: As for `maml`.
        through: Differentiate through $\theta_i$ as MAML does. If False, it is a constant: the meta-gradient is then
            the envelope's, and the query terms are only reported.

    Returns:
        An objective, as of `maml`, with the further term `"proximal"`, one value $\lambda \lVert \theta_i - \theta
        \rVert^2$ for each task with some weight in its query. Give it the loss weight 1 in the train step.

    References:
        Zhou et al. 2019, NeurIPS, "Efficient meta learning via minibatch proximal update". Rajeswaran et al. 2019,
        arXiv:1909.04630.

    >>> def objective(params, rows, ctx):
    ...     return {"half": Term((params - rows["x"]) ** 2 / 2, weights=1)}
    >>> method = proximal_meta(objective, weight=0.5, inner_rate=0.5, loss_weights={"half": 1.0})
    >>> batch = {"support": {"x": jnp.array([[4.0]])}, "query": {"x": jnp.array([[4.0]])}}
    >>> terms = method(jnp.array(2.0), batch, Context(jax.random.key(0), jnp.int32(0)))  # 2 -> 3
    >>> terms["half"].values.tolist(), terms["proximal"].values.tolist()
    ([[0.5]], [0.5])
    """
    inner_loop.check_number("weight", weight)
    inner = InnerLoop(objective, inner_rate, steps, loss_weights)

    def task(params: Params, rows: Batch, ctx: Context) -> tuple[Terms, Any]:
        strength, shared = rate_at(weight, ctx.step), params if through else jax.lax.stop_gradient(params)
        adapted, state = inner.adapt(
            shared, rows["support"], ctx, lambda fast: strength * inner_loop.distance(inner_loop.split(shared)[0], fast)
        )
        terms, state = inner.query(adapted, rows, ctx, state)
        value = strength * inner_loop.distance(inner_loop.split(params)[0], inner_loop.split(adapted)[0])
        return inner_loop.with_term(terms, "proximal", Term(value, inner_loop.any_weight(terms, loss_weights))), state

    return inner_loop.over_tasks(task)


def _adapt_and_judge(inner: InnerLoop) -> Objective:
    def task(params: Params, rows: Batch, ctx: Context) -> tuple[Terms, Any]:
        adapted, state = inner.adapt(params, rows["support"], ctx)
        return inner.query(adapted, rows, ctx, state)

    return inner_loop.over_tasks(task)
