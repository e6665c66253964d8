"""A NaN in a valid input shows in every value that depends on it, and in no other."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lossfns.testing.case import (
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
from lossfns.testing.numerics import unpleasant

# Which row, and which of its entries: 0 is the first, 1 the last.
_PLACES = ((0.0, 1.0), (0.5, 0.0), (1.0, 0.5))

# Replacements of an entry that reveal which values depend on it.
_PROBES = (20.0, -20.0)


@dataclasses.dataclass(frozen=True)
class _Place:
    """An entry of a floating leaf of the inputs."""

    position: int
    leaf: int
    row: int
    entry: int

    def __str__(self) -> str:
        return f"argument {self.position}, row {self.row}, entry {self.entry}"


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

    def evaluated(place: _Place, x: float) -> Any:
        return evaluate(case, _replaced(case, inputs, place, x), kwargs, where=where)

    before = evaluate(case, inputs, kwargs, where=where)
    places = list(_places(case, inputs))
    for place in places:
        what = f"{hostile + ', ' if hostile else ''}NaN at {place} {described(kwargs)}"
        depends = np.any([_differ(evaluated(place, x)[0], before[0]) for x in _PROBES], axis=0)
        after = evaluated(place, np.nan)
        lost = depends & ~np.isnan(after[0])
        assert not lost.any(), f"{what}: a value that depends on it is {after[0][lost][0]}"
        if case.batched:
            _check_rows(case, place, before, after, depends, 2 * case.tolerance(kwargs), what)
        # Extreme numbers may hide the effect of moderate ones.
        if not hostile and not case.flat and not depends.any():
            odd = _differ(after[0], before[0])
            assert not odd.any(), f"{what}: nothing depends on it, and a value is {after[0][odd][0]}"
    return len(places)


def _check_rows(
    case: LossCase, place: _Place, before: Any, after: Any, depends: np.ndarray, ulps: float, what: str
) -> None:
    if case.batch_coupled and place.position not in case.nan_stays:
        # A mean over nothing, or a masked value, is 0 whatever the others are.
        good = np.isnan(after[0]) | ((before[0] == 0) & (after[0] == 0))
        assert good.all() or not depends.any(), f"{what}: expected NaN in every row, got {after[0]}"
        return
    others = np.arange(len(depends)) != place.row
    if case.batch_coupled:  # shared inputs have the gradient of all rows
        before, after = before[:1], after[:1]
        others &= ~depends.reshape(len(depends), -1).any(axis=1)
    got, wanted = take(after, others), take(before, others)
    assert_close(got, wanted, f"{what}, another row", ulps=ulps, relative_to=max(1.0, largest(wanted)))


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two arrays differ by more than roundings."""
    with np.errstate(invalid="ignore"):
        out: np.ndarray = ~((np.abs(a - b) <= 1e-4 * (1 + np.abs(b))) | (a == b) | (np.isnan(a) & np.isnan(b)))
        return out


def _places(case: LossCase, inputs: Inputs) -> Iterator[_Place]:
    for position, tree in enumerate(inputs):
        for i, leaf in enumerate(jax.tree.leaves(tree)):
            if is_floating(leaf) and np.size(leaf):
                rows, entries = _lines(case, leaf).shape
                for of_rows, of_entries in _PLACES:
                    yield _Place(position, i, round(of_rows * (rows - 1)), round(of_entries * (entries - 1)))


def _lines(case: LossCase, leaf: Any) -> np.ndarray:
    """A copy in two dimensions, the rows first."""
    return np.array(np.reshape(leaf, (len(leaf) if case.batched else 1, -1)))


def _replaced(case: LossCase, inputs: Inputs, place: _Place, x: float) -> Inputs:
    """The inputs with one entry replaced."""
    leaves, structure = jax.tree.flatten(inputs[place.position])
    lines = _lines(case, leaves[place.leaf])
    lines[place.row, place.entry] = x
    leaves[place.leaf] = lines.reshape(np.shape(leaves[place.leaf]))
    changed = jax.tree.unflatten(structure, leaves)
    return (*inputs[: place.position], changed, *inputs[place.position + 1 :])
