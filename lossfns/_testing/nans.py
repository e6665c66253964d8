"""A NaN in an input that counts is seen in every value that depends on it, and in no other."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lossfns._testing.case import (
    Inputs,
    LossCase,
    Skip,
    all_rows,
    assert_close,
    count_rows,
    described,
    evaluate,
    is_floating,
    largest,
    take,
)
from lossfns._testing.numerics import unpleasant

# Which row, and which of its entries: 0 is the first, 1 the last.
_PLACES = ((0.0, 1.0), (0.5, 0.0), (1.0, 0.5))

# What an entry becomes to see which values depend on it.
_PROBES = (20.0, -20.0)


def nan_shows(case: LossCase, inputs: Inputs) -> str | None:
    """A NaN makes its own row NaN and no other, or in a coupled loss every row that is not masked."""
    count = sum(_check_batch(case, inputs, kwargs) for kwargs in case.variants)
    if case.batched and not case.batch_coupled:
        shapes = jax.tree.map(np.shape, inputs)
        for name, batch, kwargs in unpleasant(case, inputs):
            if jax.tree.map(np.shape, batch) == shapes:
                count += _check_batch(case, batch, kwargs, name)
    if not count:
        raise Skip("no floating input")
    return f"{count} places"


def _check_batch(case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any], hostile: str = "") -> int:
    where = all_rows(case, inputs, kwargs)
    if where is not None and count_rows(inputs) > 3:
        where[1] = False

    def evaluated(batch: Inputs) -> Any:
        return evaluate(case, batch, kwargs, where=where)

    before, count = evaluated(inputs), 0
    for place, position, row, replaced in _places(case, inputs):
        what = f"{hostile + ', ' if hostile else ''}NaN at {place} {described(kwargs)}"
        depends = np.any([_differ(evaluated(replaced(x))[0], before[0]) for x in _PROBES], axis=0)
        after = evaluated(replaced(np.nan))
        spoiled = np.isnan(after[0])
        lost = depends & ~spoiled
        assert not lost.any(), f"{what}: a value that depends on it is {after[0][lost][0]}"
        if case.batched and case.batch_coupled and position not in case.nan_stays:
            # What has nothing to average, or is masked, is 0 whatever the others are.
            good = spoiled | ((before[0] == 0) & (after[0] == 0))
            assert good.all() or not depends.any(), f"{what}: expected NaN in every row, got {after[0]}"
        elif case.batched:
            # What the rows of a coupled loss share has the gradient of all of them.
            pair = [x[:1] if case.batch_coupled else x for x in (after, before)]
            others = (np.arange(len(spoiled)) != row) & ~depends.reshape(len(spoiled), -1).any(axis=1)
            got, wanted = (take(x, others) for x in pair)
            assert_close(got, wanted, f"{what}, another row", ulps=2 * case.tolerance(kwargs), relative_to=max(1.0, largest(wanted)))
        if not hostile and not depends.any() and not case.flat:  # extreme numbers may hide what moderate ones change
            odd = _differ(after[0], before[0])
            assert not odd.any(), f"{what}: nothing depends on it, and a value is {after[0][odd][0]}"
        count += 1
    return count


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two arrays differ by more than roundings."""
    with np.errstate(invalid="ignore"):
        return ~((np.abs(a - b) <= 1e-4 * (1 + np.abs(b))) | (a == b) | (np.isnan(a) & np.isnan(b)))


def _places(case: LossCase, inputs: Inputs) -> Iterator[tuple[str, int, int, Callable[[float], Inputs]]]:
    """Where to put a number: in words, the argument's position, the row, and the inputs with the number there."""
    for position, tree in enumerate(inputs):
        leaves, structure = jax.tree.flatten(tree)
        for i, leaf in enumerate(leaves):
            if not is_floating(leaf) or not np.size(leaf):
                continue
            lines = np.reshape(leaf, (len(leaf) if case.batched else 1, -1))
            for share_of_rows, share in _PLACES:
                row, entry = int(share_of_rows * (lines.shape[0] - 1) + 0.5), int(share * (lines.shape[1] - 1) + 0.5)

                def replaced(x: float, i: int = i, at: tuple[int, int] = (row, entry), lines: Any = lines) -> Inputs:
                    changed = lines.copy()
                    changed[at] = x
                    new = [*leaves[:i], changed.reshape(np.shape(leaves[i])), *leaves[i + 1 :]]
                    return (*inputs[:position], jax.tree.unflatten(structure, new), *inputs[position + 1 :])

                yield f"argument {position}, row {row}, entry {entry}", position, row, replaced
