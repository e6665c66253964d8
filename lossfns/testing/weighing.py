"""The property of the mean: a loss's term weights follow from the mask given to the loss."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lossfns.testing.case import (
    Inputs,
    LossCase,
    assert_same,
    count_rows,
    described,
    evaluate,
    needs_rows,
    result_shape,
    row_mask,
    some_rows,
    take,
)
from lossfns.testing.invariances import poison

SEEDS = 4


def mask_is_given_once(case: LossCase, inputs: Inputs) -> str | None:
    """The mean with a mask is the mean of the remaining rows, without positions that are always empty.

    The weights are `loss.term_weights(*arrays, where=, **kwargs)` if the loss has this attribute, else the mask.
    """
    needs_rows(case)
    keep = some_rows(count_rows(inputs))
    for kwargs in case.variants:
        shape = result_shape(case, inputs, kwargs)
        left = _shares(case, take(inputs, keep), np.ones((int(keep.sum()), *shape[1:]), bool), kwargs)
        if case.batch_coupled:
            expected = _mean(case, take(inputs, keep), None, left, kwargs)
        else:
            shares = np.zeros(shape, np.float32)
            shares[keep] = left
            mean, grads = _mean(case, inputs, None, shares, kwargs)
            expected = mean, take(grads, keep)
        where, hidden = row_mask(keep, shape), poison(inputs, ~keep, np.nan)
        mean, grads = _mean(case, hidden, where, _shares(case, hidden, where, kwargs), kwargs)
        assert_same(case, (mean, take(grads, keep)), expected, kwargs, f"the mean {described(kwargs)}")
        assert not any(leaf.any() for leaf in jax.tree.leaves(take(grads, ~keep))), "masked rows: expected gradient 0"
    _assert_empty_places_do_not_count(case, inputs)
    return None


def _assert_empty_places_do_not_count(case: LossCase, inputs: Inputs) -> None:
    """A position that is always 0, such as a first token, would lower the mean."""
    kwargs = case.variants[0]
    shape = result_shape(case, inputs, kwargs)
    empty = np.ones(shape, bool)
    if len(shape) < 2 or not case.rows:
        return
    for seed in range(SEEDS):
        drawn = case.inputs(count_rows(inputs), seed)
        if result_shape(case, drawn, kwargs) != shape:
            return
        empty &= (evaluate(case, drawn, kwargs)[0] == 0) & (_shares(case, drawn, np.ones(shape, bool), kwargs) != 0)
    assert not empty.any(), f"place {np.argwhere(empty)[0].tolist()} is 0 for {SEEDS} inputs, and counts in the mean"


def _shares(case: LossCase, inputs: Inputs, where: np.ndarray, kwargs: Mapping[str, Any]) -> np.ndarray:
    """The weight of each value divided by the sum of the weights."""
    loss: Any = case.loss
    args, options = inputs, kwargs
    while isinstance(loss, functools.partial):
        loss, args, options = loss.func, (*loss.args, *args), {**loss.keywords, **options}
    own = getattr(loss, "term_weights", None)
    weights = np.asarray(where if own is None else own(*args, where=where, **options), np.float32)
    assert weights.shape == where.shape, f"the weights {weights.shape} must have the shape {where.shape} of the values"
    total = weights.sum()
    return weights / (total if total else 1)


def _mean(
    case: LossCase, inputs: Inputs, where: Any, shares: np.ndarray, kwargs: Mapping[str, Any]
) -> tuple[np.ndarray, Any]:
    values, grads = evaluate(case, inputs, kwargs, where=where, weights=shares)
    return np.sum(np.where(shares == 0, 0, values) * shares, dtype=values.dtype), grads
