"""Numerical properties: correct values and derivatives, hostile inputs, low precision."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lossfns.testing.case import (
    Inputs,
    LossCase,
    Skip,
    all_rows,
    assert_close,
    assert_same,
    cast,
    count_rows,
    described,
    evaluate,
    expected_values,
    is_floating,
    largest,
    result_shape,
    row_weights,
    take,
    with_moved,
)


def oracle(case: LossCase, inputs: Inputs) -> str | None:
    """Values equal the oracle's in float32 and float64."""
    worst = 0.0
    for kwargs in case.variants:
        expected = expected_values(case, inputs, kwargs)
        values, _ = evaluate(case, inputs, kwargs)
        assert_close(values, expected, f"float32 {described(kwargs)}", ulps=case.tolerance(kwargs))
        worst = max(worst, float(np.abs(values - expected).max(initial=0.0)))
        with jax.enable_x64(True):
            doubles = cast(inputs, np.float64)
            values, _ = evaluate(case, doubles, kwargs)
            assert_close(
                values, expected, f"float64 {described(kwargs)}", ulps=case.tolerance(kwargs), dtype=np.float64
            )
    return f"largest float32 error {worst:.1e}"


def gradients(case: LossCase, inputs: Inputs) -> str | None:
    """Derivatives equal finite differences in float64, and float32 gradients equal float64 ones."""
    if not case.moving(inputs):
        raise Skip("nothing to differentiate")
    for position, kwargs in enumerate(case.variants):
        with jax.enable_x64(True):
            doubles = cast(inputs, np.float64)
            exact = evaluate(case, doubles, kwargs)
            _check_gradient(case, doubles, kwargs, exact[1])
            if position == 0:
                _check_every_mode(case, doubles, kwargs)
        actual = evaluate(case, inputs, kwargs)
        assert_same(case, actual, exact, kwargs, f"float32 against float64 {described(kwargs)}")
    return None


# Central differences in float64 with a step of 1e-5: truncation 1e-10 times the third derivative, rounding 1e-11, both
# far below 1e-5. Each derivative grows by the formula's condition number, so the third exceeds the first by its square.
_STEP = 1e-5


def gradient_tolerance(case: LossCase, kwargs: Mapping[str, Any]) -> float:
    """Relative tolerance of float32 gradients."""
    return 1e-5 * case.condition(kwargs) ** 2


def _check_gradient(case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any], grads: tuple[Any, ...]) -> None:
    """The derivative in one random direction, from values alone."""
    moving, rng = case.moving(inputs), np.random.default_rng(2)
    ways = [jax.tree.map(lambda x: rng.normal(size=np.shape(x)), inputs[i]) for i in moving]

    def objective(step: float) -> float:
        moved = jax.tree.map(lambda x, d: x + step * d, [inputs[i] for i in moving], ways)
        values = evaluate(case, with_moved(inputs, moving, tuple(moved)), kwargs)[0]
        weights = row_weights(case, inputs, kwargs)
        return float((values * weights).sum())

    difference = (objective(_STEP) - objective(-_STEP)) / (2 * _STEP)
    grad = float(_dot(list(grads), ways))
    close = abs(grad - difference) <= gradient_tolerance(case, kwargs) * (1 + abs(difference))
    assert close, f"gradient {described(kwargs)}: finite differences give {difference:.9g}, the gradient {grad:.9g}"


def _check_every_mode(case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any]) -> None:
    """Forward and reverse mode and second derivatives, along one direction, against differences; one program."""
    moving, where, rng = case.moving(inputs), all_rows(case, inputs, kwargs), np.random.default_rng(5)
    options = kwargs if where is None else {**kwargs, "where": where}
    start = tuple(inputs[i] for i in moving)
    way = jax.tree.map(lambda x: rng.normal(size=np.shape(x)), start)
    weights = rng.normal(size=result_shape(case, inputs, kwargs))

    def values(moved: tuple[Any, ...]) -> jax.Array:
        return case.loss(*with_moved(inputs, moving, moved), **options)

    grads = jax.grad(lambda moved: (values(moved) * weights).sum())

    @jax.jit
    def every_mode(moved: tuple[Any, ...]) -> dict[str, Any]:
        out = {"value": values(moved), "gradient": grads(moved)}
        if "fwd" in case.modes:
            out["forward mode"] = jax.jvp(values, (moved,), (way,))[1]
        if case.smooth:
            out["reverse over reverse"] = jax.grad(lambda moved: _dot(grads(moved), way))(moved)
        if case.smooth and "fwd" in case.modes:
            out["forward over reverse"] = jax.jvp(grads, (moved,), (way,))[1]
        return out

    def difference(name: str) -> Any:
        ahead, behind = (
            every_mode(jax.tree.map(lambda x, d, s=s: x + s * d, start, way))[name] for s in (_STEP, -_STEP)
        )
        return jax.tree.map(lambda a, b: (np.asarray(a) - np.asarray(b)) / (2 * _STEP), ahead, behind)

    here, first = jax.tree.map(np.asarray, every_mode(start)), difference("value")
    pairs = [("reverse mode", _dot(here["gradient"], way), (weights * first).sum())]
    if "fwd" in case.modes:
        pairs.append(("forward mode", here["forward mode"], first))
    if case.smooth:
        second = difference("gradient")
        pairs += [(name, here[name], second) for name in here if " over " in name]
    ulps = gradient_tolerance(case, kwargs) / float(np.finfo(np.float64).eps)
    for name, got, wanted in pairs:
        assert_close(got, wanted, f"{name} against differences {described(kwargs)}", ulps=ulps, dtype=np.float64)


def _dot(a: Any, b: Any) -> Any:
    return sum(jax.tree.leaves(jax.tree.map(lambda x, y: (x * y).sum(), a, b)))


def peaked(inputs: Inputs) -> Inputs:
    """The predictions, ten times as far apart."""
    return (jax.tree.map(lambda x: 10 * x if is_floating(x) else x, inputs[0]), *inputs[1:])


def unpleasant(case: LossCase, inputs: Inputs) -> Iterator[tuple[str, Inputs, Mapping[str, Any]]]:
    """Extreme inputs for every loss, then the case's own: name, arrays, keyword arguments."""
    kwargs = case.variants[0]

    def floats(change: Callable[[np.ndarray], np.ndarray]) -> Inputs:
        out: Inputs = jax.tree.map(lambda x: change(np.array(x)) if is_floating(x) else x, inputs)
        return out

    def first_row_zero(x: np.ndarray) -> np.ndarray:
        x[:1] = 0
        return x

    yield "all zeros", floats(np.zeros_like), kwargs
    top = largest(inputs[0])
    yield "entries of 1e4", (floats(lambda x: x * np.float32(1e4 / top))[0], *inputs[1:]), kwargs
    if case.batched:
        yield "a zero row", floats(first_row_zero), kwargs
        yield "equal rows", take(inputs, np.zeros(count_rows(inputs), int)), kwargs
        yield "one row", take(inputs, slice(0, 1)), kwargs
        yield "no row", take(inputs, slice(0, 0)), kwargs
    if case.hostile is not None:
        for name, (given, options) in case.hostile(np.random.default_rng(0)).items():
            yield name, _with_as_many_rows(case, cast(tuple(given), np.float32), inputs), options


def _with_as_many_rows(case: LossCase, given: Inputs, inputs: Inputs) -> Inputs:
    """Repeats rows up to the number of rows of `inputs`, so that nothing new is compiled."""
    shapes = [[np.shape(x)[1:] for x in jax.tree.leaves(batch)] for batch in (given, inputs)]
    if not case.batched or case.batch_coupled or shapes[0] != shapes[1] or 0 in np.shape(jax.tree.leaves(given)[0]):
        return given
    out: Inputs = take(given, np.arange(max(count_rows(inputs), count_rows(given))) % count_rows(given))
    return out


def hostile(case: LossCase, inputs: Inputs) -> str | None:
    """Extreme inputs give the oracle's values, and finite gradients wherever the value is finite."""
    ordinary = largest(evaluate(case, inputs, case.variants[0])[1])
    names = []
    for name, batch, kwargs in unpleasant(case, inputs):
        values, grads = evaluate(case, batch, kwargs)
        if case.oracle is not None:
            assert_close(values, expected_values(case, batch, kwargs), name, ulps=case.tolerance(kwargs))
        else:
            assert np.isfinite(values).all(), f"{name}: expected finite values, got {values.ravel()[:4]}"
        finite = np.isfinite(values)
        if case.batched and not case.batch_coupled:
            others = tuple(range(1, finite.ndim))
            for leaf in jax.tree.leaves(take(grads, ~np.isnan(values).any(axis=others))):
                assert not np.isnan(leaf).any(), f"{name}: the value is infinite and the gradient is NaN"
            finite = finite.all(axis=others)
            grads = take(grads, finite)
        if finite.all() or (case.batched and not case.batch_coupled):
            for leaf in jax.tree.leaves(grads):
                assert np.isfinite(leaf).all(), f"{name}: a finite value has a NaN or infinite gradient"
                # 1 / (norm + epsilon) is finite at zero and useless: that row has a million times the others' gradient.
                small = name not in ("a zero row", "all zeros") or largest(leaf) <= 1e3 * max(ordinary, 1.0)
                assert small, f"{name}: gradient of {largest(leaf):.1e} where ordinary rows have {ordinary:.1e}"
        names.append(name)
    return ", ".join(names)


def low_precision(case: LossCase, inputs: Inputs) -> str | None:
    """bfloat16 and float16 inputs lose only their own rounding; gradients are no worse than the naive formula's."""
    kwargs = case.variants[0]
    notes = []
    for dtype in (jnp.bfloat16, np.float16):
        for label, batch in (("", inputs), (", peaked", peaked(inputs))):
            what = f"{np.dtype(dtype).name}{label}"
            batch = cast(batch, dtype)
            values, grads = evaluate(case, batch, kwargs)
            with jax.enable_x64(True):
                exact_values, exact_grads = evaluate(case, cast(batch, np.float64), kwargs)
            if case.oracle is not None:
                exact_values = expected_values(case, batch, kwargs)
            assert_close(values, exact_values, f"{what}: computed below float32, value", ulps=case.tolerance(kwargs))
            error = _largest_error(grads, exact_grads)
            if case.naive is not None and not _is_rounded_once(grads, exact_grads, dtype, case.tolerance(kwargs)):
                naive = _largest_error(_naive_gradients(case, batch, kwargs), exact_grads)
                assert error <= naive, f"{what}: gradient error {error:.2e}, the naive formula's is {naive:.2e}"
            notes.append(f"{error:.0e}")
    return f"gradient errors {', '.join(notes)}"


def _naive_gradients(case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    assert case.naive is not None
    textbook = dataclasses.replace(case, loss=case.naive, sweep={})
    return evaluate(textbook, inputs, kwargs, maskless=True)[1]


def _is_rounded_once(actual: Any, expected: Any, dtype: Any, ulps: float) -> bool:
    """Whether the gradient is the float32 gradient, rounded once to the inputs' dtype."""
    info, above = jnp.finfo(dtype), ulps * float(jnp.finfo(np.float32).eps) * largest(expected)

    def fits(got: np.ndarray, wanted: np.ndarray) -> bool:
        allowed = float(info.eps) / 2 * (np.abs(wanted) + above) + above + float(info.smallest_subnormal)
        return bool((np.abs(np.float64(got) - wanted) <= allowed).all())

    return all(jax.tree.leaves(jax.tree.map(fits, actual, expected)))


def _largest_error(actual: Any, expected: Any) -> float:
    errors = jax.tree.map(lambda a, e: np.abs(np.float64(a) - e).max(initial=0.0), actual, expected)
    return float(np.nan_to_num(max(jax.tree.leaves(errors), default=0.0), nan=np.inf))
