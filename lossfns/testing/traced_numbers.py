"""Gradients with respect to traced numbers: correct, and finite wherever the value is."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lossfns.testing.case import (
    Inputs,
    LossCase,
    Skip,
    all_rows,
    cast,
    described,
    evaluate,
    evaluate_all,
    option_defaults,
    row_weights,
)
from lossfns.testing.numerics import gradient_tolerance, unpleasant

# Step of a central difference in float64, relative to the number.
_STEP = 1e-5


def hyper_parameters(case: LossCase, inputs: Inputs) -> str | None:
    """The gradient by each number of `sweep` equals finite differences, and is finite on hostile inputs."""
    if not case.sweep:
        raise Skip("no numeric hyper-parameter given")
    given = [*case.variants, *_with_all(case, inputs)]
    seen = {name for kwargs in given for name in _check_differences(case, inputs, kwargs)}
    missing = {*case.sweep} - seen - {*case.unlike_differences}
    assert not missing, f"not differentiated: {sorted(missing)}"
    shapes = jax.tree.map(np.shape, inputs)
    for name, batch, kwargs in unpleasant(case, inputs):
        _check_finite(case, batch, kwargs, name)
        if jax.tree.map(np.shape, batch) == shapes and {*kwargs} <= {*case.sweep}:  # nothing new is compiled
            _check_finite(case, batch, {**given[-1], **kwargs}, name)
    return ", ".join(case.sweep)


def _with_all(case: LossCase, inputs: Inputs) -> list[Mapping[str, Any]]:
    """Options with every number of `sweep` set: together, or one by one if they exclude each other."""
    used = {**option_defaults(case.loss), **case.variants[0]}
    unused = {name: values[1] for name, values in case.sweep.items() if not _is_number(used.get(name))}
    if not unused:
        return []
    try:
        evaluate(case, inputs, {**case.variants[0], **unused})
    except (TypeError, ValueError):
        return [{**case.variants[0], name: x} for name, x in unused.items()]
    return [{**case.variants[0], **unused}]


def _is_number(x: Any) -> bool:
    return isinstance(x, float) and x != 0


def _check_differences(case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any]) -> list[str]:
    """Compares with finite differences in float64; returns the names of the numbers."""
    used = {**option_defaults(case.loss), **kwargs}
    with jax.enable_x64(True):
        doubles = cast(inputs, np.float64)
        weights = row_weights(case, inputs, kwargs)
        _, _, grads = evaluate_all(case, doubles, kwargs)
        for name, grad in grads.items():
            if name in case.unlike_differences or not np.isfinite(used[name]):
                continue
            step = _STEP * abs(used[name])
            try:
                ahead, behind = (evaluate(case, doubles, {**kwargs, name: used[name] + d})[0] for d in (step, -step))
            except ValueError:  # at the end of its range
                continue
            if np.isnan(ahead).any() or np.isnan(behind).any():  # the same, where the number is traced
                continue
            difference = (weights * (ahead - behind)).sum() / (2 * step)
            rounding = 8 * float(np.finfo(np.float64).eps) * np.abs(weights * ahead).sum() / step
            allowed = gradient_tolerance(case, kwargs) * (1 + abs(difference)) + rounding
            what = f"gradient by {name} {described(kwargs)}: differences give {difference:.9g}, got {grad:.9g}"
            assert abs(grad - difference) <= allowed, what
    _check_finite(case, inputs, kwargs, "ordinary inputs")
    return list(grads)


def _check_finite(case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any], what: str) -> None:
    values, _, grads = evaluate_all(case, inputs, kwargs)
    finite, where = np.isfinite(values), None
    if not finite.all():
        where = all_rows(case, inputs, kwargs)
        if where is None or case.batch_coupled or not case.batched:
            return
        finite = finite.reshape(len(finite), -1).all(axis=1)
        where[~finite] = False
        grads = evaluate_all(case, inputs, kwargs, where=where)[2]
    for name, grad in grads.items():
        assert np.isfinite(grad), f"{what} {described(kwargs)}: the gradient by {name} is {grad}"
