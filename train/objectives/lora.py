"""Low-rank adaptation of any parameter tree: trains small adapters of fixed parameters.

    adapters = lora_init(params, rank=8, pattern="attention.*kernel", key=jax.random.key(0))
    step = build_train_step(lora_objective(objective, alpha=16), optimizer, loss_weights=...)
    state = create_state(adapters, optimizer, key=0, frozen=LoraBase(params))
    params = lora_merge(params, evaluation_params(state), alpha=16)

A kernel W becomes `W + alpha / rank * A B`. It is merged before the objective sees it, so models need no change; the
optimizer keeps state for A and B only. The gradient of the merged kernel exists temporarily.
"""

from __future__ import annotations

import dataclasses
import math
import re
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from train.errors import UsageError
from train.objective import Context, Objective, Terms
from train.optimizers.matrices import matrix_shape
from train.paths import check_matches, map_with_path, path_of, paths_of
from train.trees import Batch, Params, Tree


class LoraBase(NamedTuple):
    """The field `frozen` of a state that trains adapters.

    Args:
        params: The adapted parameters.
        frozen: `ctx.frozen` of the objective: a teacher, a reference policy.
    """

    params: Params
    frozen: Any = None


def lora_init(params: Params, rank: int, pattern: str, key: jax.Array) -> dict[str, Any]:
    """Initial adapters, without effect yet: A is Gaussian with variance 1 / inputs, and B is 0.

    Args:
        params: The parameters, any pytree of arrays.
        rank: Number of columns of A and rows of B, at most the smaller side of every adapted kernel.
        pattern: Regular expression searched in the paths. Matching parameters with at least two axes get an adapter.
        key: PRNG key. The A of a kernel depends only on the key and the path.

    Returns:
        Nested dicts along the paths of the kernels, each with `{"a": [inputs, rank], "b": [rank, outputs]}` in at least
        float32. A kernel of more than two axes is flattened: one of four or more is [..., inputs, outputs], one of
        three is split where the two sides are most nearly equal (see `train.optimizers.matrices.input_axes`).

    References:
        Hu et al. 2022, arXiv:2106.09685.

    >>> params = {"dense": {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)}}
    >>> adapters = lora_init(params, rank=2, pattern="dense", key=jax.random.key(0))
    >>> adapters["dense"]["kernel"]["a"].shape, adapters["dense"]["kernel"]["b"].tolist()
    ((6, 2), [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    """
    check_matches(pattern, params, "pattern")
    kernels = {path: leaf for path, leaf in _leaves(params).items() if jnp.ndim(leaf) >= 2}
    chosen = [path for path in kernels if re.search(pattern, path)]
    if not chosen:
        raise UsageError(f"pattern={pattern!r} finds only parameters with fewer than two axes, which have no adapters.")
    adapters: dict[str, Any] = {}
    for path in chosen:
        leaf = kernels[path]
        n_in, n_out = matrix_shape(jnp.shape(leaf))
        if not 1 <= rank <= min(n_in, n_out):
            raise UsageError(f"the rank must be from 1 to {min(n_in, n_out)} for {path} [{n_in}, {n_out}], not {rank}.")
        dtype = jnp.promote_types(leaf.dtype, jnp.float32)
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        a = jax.random.normal(own, (n_in, rank), dtype) / math.sqrt(n_in)
        *parents, name = path.split("/")
        node = adapters
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = {"a": a, "b": jnp.zeros((rank, n_out), dtype)}
    return adapters


def lora_merge(params: Params, adapters: Tree, *, alpha: float, rank_stabilized: bool = False) -> Any:
    """Adds the adapters to the parameters: `W + alpha / rank * A B`.

    Args:
        params: The parameters that the adapters were made for.
        adapters: Adapters from `lora_init`.
        alpha: Scale of the change.
        rank_stabilized: Divide by the square root of the rank, so that the learning speed does not depend on the rank.

    Returns:
        A tree like `params` with the same dtypes. The sum is computed in the wider dtype of the two.

    References:
        Hu et al. 2022, arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732 (rank-stabilised).

    >>> adapters = {"w": {"a": jnp.array([[1.0], [2.0]]), "b": jnp.array([[1.0, 0.0]])}}
    >>> print(lora_merge({"w": jnp.ones((2, 2))}, adapters, alpha=3.0)["w"])
    [[4. 1.]
     [7. 1.]]
    """
    by_path: dict[str, dict[str, Any]] = {}
    for path, leaf in _leaves(adapters).items():
        kernel, _, name = path.rpartition("/")
        by_path.setdefault(kernel, {})[name] = leaf
    unknown = sorted(set(by_path) - set(paths_of(params)))
    if unknown:
        raise UsageError(f"there are adapters for {', '.join(unknown)}, but no such parameters: merge with their own.")

    def merge(path: str, leaf: Any) -> Any:
        if path not in by_path:
            return leaf
        a, b = by_path[path]["a"], by_path[path]["b"]
        rank = a.shape[1]
        change = (alpha / (math.sqrt(rank) if rank_stabilized else rank)) * (a @ b)
        return (leaf + change.reshape(leaf.shape)).astype(leaf.dtype)

    return map_with_path(merge, params)


def lora_objective(objective: Objective, *, alpha: float, rank_stabilized: bool = False) -> Objective:
    """Makes an objective a function of the adapters.

    Args:
        objective: An objective of the whole parameters. Its `ctx.frozen` is the `frozen` of the `LoraBase`; its
            `ctx.ema` is the parameters merged with the averaged adapters, if the state keeps an average. A precision
            policy belongs inside: `lora_objective(precision.wrap(objective), ...)` adds the small change before
            rounding.
        alpha: As for `lora_merge`.
        rank_stabilized: As for `lora_merge`.

    Returns:
        An objective for a state with adapters as parameters and a `LoraBase` as `frozen`.

    >>> from train.objective import Term
    >>> objective = lora_objective(lambda params, batch, ctx: {"w": Term(params["w"])}, alpha=3.0)
    >>> ctx = Context(jax.random.key(0), jnp.int32(0), frozen=LoraBase({"w": jnp.ones((2, 2))}))
    >>> adapters = {"w": {"a": jnp.array([[1.0], [2.0]]), "b": jnp.array([[1.0, 0.0]])}}
    >>> print(objective(adapters, None, ctx)["w"].values[1])
    [7. 1.]
    """

    def adapted(adapters: Tree, batch: Batch, ctx: Context) -> Terms | tuple[Terms, Any]:
        base = ctx.frozen
        if not isinstance(base, LoraBase):
            raise UsageError(
                "adapters need the parameters they change: use create_state(adapters, ..., frozen=LoraBase(params))."
            )

        def merge(tree: Tree) -> Any:
            return lora_merge(base.params, tree, alpha=alpha, rank_stabilized=rank_stabilized)

        ema = None if ctx.ema is None else merge(ctx.ema)
        return objective(merge(adapters), batch, dataclasses.replace(ctx, ema=ema, frozen=base.frozen))

    return adapted


def lora_size(adapters: Tree) -> int:
    """Number of trained parameters: rank * (inputs + outputs) for each kernel.

    >>> lora_size(lora_init({"w": jnp.ones((6, 4))}, rank=2, pattern="w", key=jax.random.key(0)))
    20
    """
    return sum(leaf.size for leaf in jax.tree.leaves(adapters))


def _leaves(tree: Tree) -> dict[str, Any]:
    return {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
