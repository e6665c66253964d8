"""Laws of families of losses beyond the contract: shift, scale, symmetry, sign and limits.

A law is checked for the first variant; laws for other arguments belong to the case's own limits.
"""

from typing import Any

import jax
import numpy as np

from lossfns.testing.case import (
    Inputs,
    LossCase,
    Skip,
    assert_close,
    assert_same,
    described,
    evaluate,
    largest,
    row_weights,
)
from lossfns.testing.numerics import peaked, unpleasant

# float32 near 1e4 has steps of 1/1024, so numbers on this grid stay exact after adding 1e4.
_GRID = 256


def _replaced(inputs: Inputs, position: int, x: Any) -> Inputs:
    return (*inputs[:position], np.asarray(x, np.float32), *inputs[position + 1 :])


def shift(case: LossCase, inputs: Inputs) -> str | None:
    """Adding 1e4 to a row of logits and subtracting it from the next changes nothing, at any temperature."""
    if not case.shift_invariant:
        raise Skip("no logits that are invariant to a constant per row")
    # A division by 3 rounds; a division by a power of two is exact.
    softer = {name: 3.0 for name in case.sweep if "temperature" in name}
    for kwargs in (case.variants[0], *([{**case.variants[0], **softer}] if softer else [])):
        for i in case.shift_invariant:
            plain = _replaced(inputs, i, np.round(inputs[i] * _GRID) / _GRID)
            expected = evaluate(case, plain, kwargs)
            rows = np.arange(np.prod(plain[i].shape[:-1])).reshape(*plain[i].shape[:-1], 1)
            for step in (1e4, -1e4):
                moved = _replaced(plain, i, plain[i] + step * (-1.0) ** rows)
                what = f"rows of argument {i} +-{step:g} {described(kwargs)}"
                assert_same(case, evaluate(case, moved, kwargs), expected, kwargs, what)
    return None


def scale(case: LossCase, inputs: Inputs) -> str | None:
    """Embeddings times 1e-4 or 1e4 give the same values, and gradients divided by the factor."""
    if not case.scale_invariant:
        raise Skip("no embeddings that are invariant to their length")
    kwargs, moving = case.variants[0], case.moving(inputs)
    expected = evaluate(case, inputs, kwargs)
    for i in case.scale_invariant:
        for factor in (1e-4, 1e4):
            values, grads = evaluate(case, _replaced(inputs, i, inputs[i] * factor), kwargs)
            grads = tuple(g * factor if j == i else g for j, g in zip(moving, grads, strict=True))
            assert_same(case, (values, grads), expected, kwargs, f"argument {i} times {factor:g}")
    return None


def symmetry(case: LossCase, inputs: Inputs) -> str | None:
    """Two arguments may be exchanged."""
    if not case.symmetric:
        raise Skip("no two arguments may be exchanged")
    kwargs = case.variants[0]
    expected, _ = evaluate(case, inputs, kwargs)
    for i, j in case.symmetric:
        exchanged = list(inputs)
        exchanged[i], exchanged[j] = inputs[j], inputs[i]
        values, _ = evaluate(case, tuple(exchanged), kwargs)
        assert_close(values, expected, f"arguments {i} and {j} exchanged", ulps=2 * case.tolerance(kwargs))
    return None


def non_negative(case: LossCase, inputs: Inputs) -> str | None:
    """No value below 0, not even by rounding: ordinary, peaked and hostile inputs, and predictions far downhill."""
    if not case.non_negative:
        raise Skip("its values may be negative")
    given = [("ordinary inputs", inputs, kwargs) for kwargs in case.variants]
    for name, batch in (("peaked inputs", peaked(inputs)), ("downhill", _downhill(case, inputs))):
        given.append((name, batch, case.variants[0]))
    least = np.inf
    for name, batch, kwargs in [*given, *unpleasant(case, inputs)]:
        values, _ = evaluate(case, batch, kwargs)
        lowest = float(np.nanmin(values, initial=np.inf))
        allowed = case.tolerance(kwargs) * float(np.finfo(np.float32).eps) if case.below_zero else 0.0
        assert lowest >= -allowed, f"{name}: a value of {lowest:.3g}"
        least = min(least, lowest)
    return f"least value {least:.1e}"


def _downhill(case: LossCase, inputs: Inputs) -> Inputs:
    """Predictions after a few long gradient steps, near the minimum of the loss."""
    if 0 not in case.moving(inputs):
        return inputs
    stride = 4 * largest(inputs[0])
    for _ in range(4):
        _, grads = evaluate(case, inputs, case.variants[0], weights=np.abs(row_weights(case, inputs, case.variants[0])))
        grad = grads[case.moving(inputs).index(0)]
        step = np.float32(min(stride / largest(grad), 1e30))
        inputs = (jax.tree.map(lambda x, g, step=step: x - step * g, inputs[0], grad), *inputs[1:])
        stride /= 2
    return inputs


def limits(case: LossCase, inputs: Inputs) -> str | None:
    """The case's own laws: limits of a hyper-parameter, equality with another loss, known sums."""
    if not case.limits:
        raise Skip("no limits given")
    for name, both in case.limits.items():
        actual, expected = both(inputs)
        assert_close(actual, expected, name, ulps=2 * case.tolerance(case.variants[0]))
    return ", ".join(case.limits)
