"""Invariances of the batch: compiled, mapped, masked, split, permuted or sharded, the values stay the same."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lossfns.testing.case import (
    Inputs,
    LossCase,
    Skip,
    assert_close,
    assert_same,
    cast,
    count_rows,
    described,
    evaluate,
    is_floating,
    needs_rows,
    result_shape,
    row_mask,
    row_weights,
    some_rows,
    take,
    value_and_gradients,
)

MAX_DEVICES = 8


def poison(inputs: Inputs, rows: np.ndarray, value: float) -> Inputs:
    """`value` in the floating inputs at the given rows, and an invalid label in the integer ones."""

    def spoiled(x: Any) -> np.ndarray:
        x = np.array(x)
        if x.dtype != bool:
            x[rows] = value if is_floating(x) else -100
        out: np.ndarray = x
        return out

    out: Inputs = jax.tree.map(spoiled, inputs)
    return out


def eager_is_jit(case: LossCase, inputs: Inputs) -> str | None:
    """An eager call gives the values of a jitted one, and a call without a mask those of a mask of True."""
    kwargs = case.variants[0]
    inside = evaluate(case, inputs, kwargs)
    eager = case.loss(*jax.tree.map(jnp.asarray, inputs), **kwargs)
    assert_close(inside[0], eager, described(kwargs), ulps=2 * case.tolerance(kwargs))
    if case.batched:
        without = evaluate(case, inputs, kwargs, maskless=True)
        assert_same(case, inside, without, kwargs, "a mask that is True everywhere")
    return None


def vmap_is_loop(case: LossCase, inputs: Inputs) -> str | None:
    """`vmap` over a stack of batches equals a loop over batches, masked or not."""
    kwargs = case.variants[0]
    if case.batched:
        rows = count_rows(inputs)
        batches = [take(inputs, np.roll(np.arange(rows), shift)) for shift in range(3)]
        where = row_mask(some_rows(rows), result_shape(case, inputs, kwargs))
    else:
        batches = [jax.tree.map(lambda x, k=k: k * x if is_floating(x) else x, inputs) for k in (1, -2, 0.5)]
        where, batches = None, [cast(batch, np.float32) for batch in batches]
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *batches)
    run = value_and_gradients(case.loss, case.moving(inputs), kwargs)
    weights = row_weights(case, inputs, kwargs)
    mapped = jax.tree.map(np.asarray, jax.jit(jax.vmap(run, in_axes=(0, None, None)))(stacked, where, weights))
    for i, batch in enumerate(batches):
        alone = evaluate(case, batch, kwargs, where=where)
        assert_same(case, jax.tree.map(lambda x, i=i: x[i], mapped), alone, kwargs, f"batch {i} of the mapped stack")
    return None


def _assert_deleted(
    case: LossCase, inputs: Inputs, keep: np.ndarray, kwargs: Mapping[str, Any], fills: tuple[float, ...], alone: bool
) -> None:
    where = row_mask(keep, result_shape(case, inputs, kwargs))
    weights = row_weights(case, inputs, kwargs)
    if case.batch_coupled:
        expected = evaluate(case, take(inputs, keep), kwargs, weights=weights[keep])
    elif alone:
        expected = take(_row_by_row(case, inputs, kwargs), keep)
    else:
        expected = take(evaluate(case, inputs, kwargs), keep)
    spoiled = {"": inputs} | {f", {fill} under the mask": poison(inputs, ~keep, fill) for fill in fills}
    for label, batch in spoiled.items():
        values, gradients = evaluate(case, batch, kwargs, where=where, weights=weights)
        what = f"{described(kwargs)}{label}"
        assert_same(case, (take(values, keep), take(gradients, keep)), expected, kwargs, f"kept rows {what}")
        for leaf, kind in [(values, "value"), *((leaf, "gradient") for leaf in jax.tree.leaves(gradients))]:
            rest = take(leaf, ~keep)
            assert (rest == 0).all(), f"masked rows {what}: {kind} must be 0, got {rest.ravel()[rest.ravel() != 0][0]}"


def masked_is_deleted(case: LossCase, inputs: Inputs) -> str | None:
    """A masked row has no effect, even with NaN, infinities or a label out of range in it."""
    needs_rows(case)
    keep = some_rows(count_rows(inputs))
    for position, kwargs in enumerate(case.variants):
        fills = (np.nan, np.inf, -np.inf) if position == 0 else (np.nan,)
        # If rows are independent, the whole batch does after the first variant.
        _assert_deleted(case, inputs, keep, kwargs, fills, alone=position == 0)
    if not case.element_masks:
        return None
    kwargs = case.variants[0]
    where = np.random.default_rng(1).random(result_shape(case, inputs, kwargs)) < 0.5
    weights = row_weights(case, inputs, kwargs)
    expected = evaluate(case, inputs, kwargs, weights=weights * where)
    aligned = [np.shape(x)[: where.ndim] == where.shape for x in inputs]
    for fill in (np.nan, np.inf):
        batch = tuple(poison((x,), ~where, fill)[0] if fits else x for x, fits in zip(inputs, aligned, strict=True))
        masked = evaluate(case, batch, kwargs, where=where, weights=weights)
        assert_same(case, masked, (expected[0] * where, expected[1]), kwargs, f"a mask over elements, {fill} under it")
    return None


def all_masked_is_zero(case: LossCase, inputs: Inputs) -> str | None:
    """With everything masked, values and gradients are exactly 0, even if all inputs are NaN."""
    needs_rows(case)
    nothing = np.ones(count_rows(inputs), bool)
    for kwargs in case.variants:
        where = np.zeros(result_shape(case, inputs, kwargs), bool)
        for batch, what in ((inputs, "finite inputs"), (poison(inputs, nothing, np.nan), "NaN inputs")):
            for leaf in jax.tree.leaves(evaluate(case, batch, kwargs, where=where)):
                assert (leaf == 0).all(), f"{what}, {described(kwargs)}: expected zeros, got {leaf.ravel()[:4]}"
    return None


def _row_by_row(case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any]) -> Any:
    """Values and gradients of each row as a batch of one."""
    weights = row_weights(case, inputs, kwargs)
    rows = [slice(i, i + 1) for i in range(count_rows(inputs))]
    parts = [evaluate(case, take(inputs, row), kwargs, weights=weights[row]) for row in rows]
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def micro_batches(case: LossCase, inputs: Inputs) -> str | None:
    """Single rows give the values of the whole batch, and a row of weight 2 equals the row twice."""
    needs_rows(case)
    if case.batch_coupled:
        raise Skip("rows are coupled: a part of the batch has other negatives")
    kwargs, rows = case.variants[0], count_rows(inputs)
    weights, whole = row_weights(case, inputs, kwargs), evaluate(case, inputs, kwargs)
    assert_same(case, _row_by_row(case, inputs, kwargs), whole, kwargs, "parts against the whole")
    if rows < 2:
        return None
    twice = np.r_[0, 0 : rows - 1]  # the first row again in place of the last: no new shape
    values, gradients = evaluate(case, take(inputs, twice), kwargs, weights=weights[twice])
    summed = jax.tree.map(lambda g: np.concatenate([g[:1] + g[1:2], g[2:]]), gradients)
    heavier = np.concatenate([2 * weights[:1], weights[1:]])
    _, heavy = evaluate(case, inputs, kwargs, weights=heavier)
    assert_same(case, (values[1:], summed), take((whole[0], heavy), slice(0, -1)), kwargs, "a row of weight 2")
    return None


def permutation(case: LossCase, inputs: Inputs) -> str | None:
    """Permuted rows give permuted values and gradients."""
    needs_rows(case)
    order = np.random.default_rng(3).permutation(count_rows(inputs))
    for kwargs in case.variants:
        weights = row_weights(case, inputs, kwargs)
        expected = take(evaluate(case, inputs, kwargs), order)
        actual = evaluate(case, take(inputs, order), kwargs, weights=weights[order])
        assert_same(case, actual, expected, kwargs, f"rows {order.tolist()} {described(kwargs)}")
    return None


def devices(case: LossCase, inputs: Inputs) -> str | None:
    """Sharding over devices with uneven masks changes nothing: shard_map with and without check_vma, and pmap."""
    needs_rows(case)
    count = min(MAX_DEVICES, jax.device_count())
    if count < 2:
        raise Skip('one device only; jax.config.update("jax_num_cpu_devices", 8) gives eight')
    first, *others = case.variants
    fitting = [n for n in range(2, count + 1) if case.rows % n == 0 and 2 * n <= case.rows]
    # A few devices, for the batch that is already compiled.
    fewer, given = (max(fitting), case.inputs()) if fitting else (count, case.inputs(2 * count))
    if not case.batch_coupled:  # independent rows do not depend on devices either
        _assert_same_on_devices(case, given, first, _uneven(case, given, first), fewer, ("check_vma",))
        return f"{fewer} devices"
    inputs = case.inputs(2 * count)
    mask = _uneven(case, inputs, first)
    _assert_same_on_devices(case, inputs, first, mask, count, ("check_vma", "no check_vma", "pmap"))
    # Without a mask only the arrays vary over devices. Other numbers are the same program.
    _assert_same_on_devices(case, given, first, None, fewer, ("check_vma",))
    for kwargs in (kwargs for kwargs in others if not all(isinstance(x, float) for x in kwargs.values())):
        _assert_same_on_devices(case, given, kwargs, _uneven(case, given, kwargs), fewer, ("check_vma",))
    return f"{count} devices"


def _uneven(case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any]) -> np.ndarray:
    keep = np.random.default_rng(4).random(count_rows(inputs)) < 0.7
    keep[:2] = False  # the first device has nothing to add
    return row_mask(keep, result_shape(case, inputs, kwargs))


def _assert_same_on_devices(
    case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any], where: Any, count: int, backends: tuple[str, ...]
) -> None:
    whole = evaluate(case, inputs, kwargs, where=where)
    options = {**kwargs, "axis_name": "shards"} if case.batch_coupled else kwargs
    run = value_and_gradients(case.loss, case.moving(inputs), options)
    given = (inputs, where, row_weights(case, inputs, kwargs))
    for backend in backends:
        what = f"{backend} on {count} devices, {described(kwargs)}, {'no' if where is None else 'a'} mask"
        assert_same(case, _on_devices(run, given, count, backend), whole, kwargs, what)


def _on_devices(run: Callable[..., Any], given: tuple[Any, ...], count: int, backend: str) -> Any:
    devices = jax.devices()[:count]
    if backend == "pmap":
        split = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), given)
        results = jax.pmap(run, axis_name="shards", devices=devices)(*split)
        return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), results)
    mesh = jax.make_mesh((count,), ("shards",), axis_types=(AxisType.Auto,), devices=devices)
    check_vma = backend == "check_vma"
    sharded = jax.shard_map(run, mesh=mesh, in_specs=P("shards"), out_specs=P("shards"), check_vma=check_vma)
    return jax.jit(sharded)(*given)
