"""Properties of the hyper-parameters: out of range they raise, or give NaN if traced."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lossfns._contract import Number
from lossfns.testing.case import (
    Inputs,
    LossCase,
    Skip,
    all_rows,
    count_rows,
    described,
    option_defaults,
    result_shape,
    row_mask,
    some_rows,
)

_BAD = (-1.0, 2.0, 0.0, -math.inf, math.inf)
_GOOD = (1.0, 0.5, 0.1, 2.0, -1.0)


def out_of_range(case: LossCase, inputs: Inputs) -> str | None:
    """A hyper-parameter out of range raises ValueError with its name; traced, it gives NaN in the valid rows only."""
    numbers = {name: check for name, check in getattr(case.loss, "checks", {}).items() if isinstance(check, Number)}
    if not numbers:
        raise Skip("no numeric hyper-parameter is known")
    bad = {name: [*_some_outside(check), float("nan")] for name, check in numbers.items()}
    given = jax.tree.map(jnp.asarray, inputs)
    for name, values in bad.items():
        for value in values:
            for form in (float, jnp.asarray):
                _assert_refused(case, given, name, form(value))
    keep = some_rows(count_rows(inputs)) if case.batched else None
    where = all_rows(case, inputs, case.variants[0])
    if keep is not None and where is not None:
        where = row_mask(keep, result_shape(case, inputs, case.variants[0]))
    for kwargs, good in _in_range(case, numbers):
        _assert_spoils(case, (given, where), kwargs, good, bad)
    return ", ".join(numbers)


def _some_outside(check: Number) -> list[float]:
    """One finite or infinite number out of range, if there is any."""
    return [value for value in _BAD if not check.holds(value)][:1]


def _assert_refused(case: LossCase, inputs: Inputs, name: str, value: Any) -> None:
    try:
        case.loss(*inputs, **{**case.variants[0], name: value})
    except ValueError as error:
        if name not in str(error):
            raise AssertionError(f"{name}={value!r}: the message lacks the name: {error}") from error
    else:
        raise AssertionError(f"{name}={value!r} {described(case.variants[0])} raised nothing")


def _in_range(case: LossCase, numbers: Mapping[str, Number]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, float]]]:
    """Other options, and numbers to trace: all of the first variant together, then each disabled one on its own."""
    defaults = option_defaults(case.loss)
    usual = {**{name: defaults.get(name) for name in numbers}, **case.variants[0]}
    on = {name: _usable(case, name, check) for name, check in numbers.items() if usual[name] is not None}
    rest = {name: value for name, value in case.variants[0].items() if name not in on}
    yield rest, on
    for name, check in numbers.items():
        if name not in on:
            kwargs = next((kwargs for kwargs in case.variants if kwargs.get(name) is not None), None)
            if kwargs is not None:
                yield {k: v for k, v in kwargs.items() if k != name}, {name: _usable(case, name, check)}


def _usable(case: LossCase, name: str, check: Number) -> float:
    """A number in range, the default if known."""
    known = [kwargs[name] for kwargs in case.variants if name in kwargs]
    given = (*known, option_defaults(case.loss).get(name), *case.sweep.get(name, ()), *_GOOD)
    return next(float(x) for x in given if isinstance(x, int | float) and check.holds(x))


def _assert_spoils(
    case: LossCase,
    given: tuple[Inputs, Any],
    kwargs: Mapping[str, Any],
    good: Mapping[str, float],
    bad: Mapping[str, Sequence[float]],
) -> None:
    def run(inputs: Inputs, where: Any, traced: Mapping[str, Any]) -> jax.Array:
        return case.loss(*inputs, **kwargs, **traced, **({} if where is None else {"where": where}))

    compiled, where = jax.jit(run), given[1]
    start = np.asarray(compiled(*given, good))
    assert not np.isnan(start).any(), f"traced {good}: expected no NaN, got {start}"
    for name, value in ((one, value) for one in good for value in bad[one]):
        got = np.asarray(compiled(*given, {**good, name: value}))
        kept, masked = (got, np.zeros(0)) if where is None else (got[where], got[~where])
        assert np.isnan(kept).all(), f"traced {name}={value}: expected NaN in all valid rows, got {got}"
        assert (masked == 0).all(), f"traced {name}={value}: expected 0 in all masked rows, got {got}"
