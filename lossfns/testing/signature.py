"""Properties of the signature: errors, dtypes, labels out of range, traced hyper-parameters."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np

from lossfns.testing.case import (
    BadCall,
    Inputs,
    LossCase,
    Skip,
    assert_same,
    cast,
    count_rows,
    described,
    evaluate,
    is_floating,
    result_shape,
    row_mask,
    take,
)


def errors(case: LossCase, inputs: Inputs) -> str | None:
    """Wrong shapes and dtypes raise ValueError or TypeError at trace time, in a message that names both sides."""
    calls = [*case.bad_calls, *(_wrong_rows(case, inputs) if case.batched else ())]
    if not calls:
        raise Skip("no bad call given")
    for call in calls:
        shown = f"{jax.tree.map(np.shape, call.args)} and { {k: np.shape(v) or v for k, v in call.kwargs.items()} }"
        try:
            jax.eval_shape(functools.partial(case.loss, **call.kwargs), *call.args)
        except call.error as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"{shown} raised {type(error).__name__}, expected {call.error}: {error}") from error
        else:
            raise AssertionError(f"{shown} raised nothing")
        missing = [word for word in call.words if word not in message]
        assert not missing, f"message for {shown} lacks {missing}: {message}"
    return f"{len(calls)} calls"


def _wrong_rows(case: LossCase, inputs: Inputs) -> Iterator[BadCall]:
    kwargs, rows = case.variants[0], count_rows(inputs)
    sides = (str(rows), str(rows - 1))
    for i in range(1, len(inputs)):
        if hasattr(inputs[i], "shape"):
            yield BadCall((*inputs[:i], inputs[i][:-1], *inputs[i + 1 :]), sides, kwargs)
            if np.issubdtype(inputs[i].dtype, np.integer):
                yield BadCall((*inputs[:i], inputs[i].astype(np.float32), *inputs[i + 1 :]), ("int", "float32"), kwargs)
    shape = result_shape(case, inputs, kwargs)
    yield BadCall(inputs, sides, {**kwargs, "where": np.ones((rows - 1, *shape[1:]), bool)})
    yield BadCall(inputs, ("bool", "float32"), {**kwargs, "where": np.ones(shape, np.float32)})


def result_dtype(case: LossCase, inputs: Inputs) -> str | None:
    """float32 from anything up to float32, float64 from float64; weak types and Python numbers change nothing."""

    def dtype_of(given: Inputs) -> np.dtype:
        result = jax.eval_shape(functools.partial(case.loss, **kwargs), *given)
        assert not getattr(result, "weak_type", False), "the result is weakly typed"
        out: np.dtype = np.dtype(result.dtype)
        return out

    for kwargs in case.variants:
        for dtype in (jnp.bfloat16, np.float16, np.float32):
            got = dtype_of(cast(inputs, dtype))
            assert got == np.float32, f"{np.dtype(dtype).name} inputs {described(kwargs)}: expected float32, got {got}"
        with jax.enable_x64(True):
            for wide in (np.float32, np.float64):
                got = dtype_of(cast(inputs, wide))
                assert got == wide, f"{wide.__name__} inputs in x64 mode {described(kwargs)}: got {got}"
    return None


def labels_out_of_range(case: LossCase, inputs: Inputs) -> str | None:
    """A label out of range makes its own row NaN and does not affect others."""
    if case.labels is None:
        raise Skip("no class labels")
    for kwargs in case.variants:
        _assert_spoils_its_row(case, inputs, case.labels, (-1, case.num_classes(*inputs), -100, 2**30), kwargs)
    return None


def values_out_of_range(case: LossCase, inputs: Inputs) -> str | None:
    """A target, weight or the like out of range makes its own row NaN unless masked, and does not affect others."""
    if not case.outside:
        raise Skip("arrays may hold any number")
    kwargs = case.variants[0]
    for position, numbers in case.outside.items():
        nan = (np.nan,) if is_floating(inputs[position]) else ()
        _assert_spoils_its_row(case, inputs, position, (*numbers, *nan), kwargs)
        where = row_mask(np.arange(count_rows(inputs)) > 0, result_shape(case, inputs, kwargs))
        for wrong in numbers:
            values, grads = evaluate(case, _with_first(inputs, position, wrong), kwargs, where=where)
            for leaf in (values, *jax.tree.leaves(grads)):
                assert (leaf[0] == 0).all(), f"{wrong} in array {position} of a masked row: expected 0, got {leaf[0]}"
    return None


def _with_first(inputs: Inputs, position: int, value: float) -> Inputs:
    """Replaces the last entry of the first row of an array."""
    array = np.array(inputs[position])
    array[(0,) + (-1,) * (array.ndim - 1)] = value
    return (*inputs[:position], array, *inputs[position + 1 :])


def _assert_spoils_its_row(
    case: LossCase, inputs: Inputs, position: int, numbers: Sequence[float], kwargs: Mapping[str, Any]
) -> None:
    expected = evaluate(case, inputs, kwargs)
    for wrong in numbers:
        values, grads = evaluate(case, _with_first(inputs, position, wrong), kwargs)
        what = f"{wrong} in array {position} {described(kwargs)}"
        assert np.isnan(values[0]).any(), f"{what}: expected NaN, got {values[0]}"
        if not case.batch_coupled:
            others = take((values, grads), slice(1, None))
            assert_same(case, others, take(expected, slice(1, None)), kwargs, f"rows next to one with {what}")


def no_recompilation(case: LossCase, inputs: Inputs) -> str | None:
    """Other values of a numeric hyper-parameter trace and compile nothing new."""
    if not case.sweep:
        raise Skip("no numeric hyper-parameter given")
    for name, values in case.sweep.items():
        assert len(values) > 2, f"{name}: give at least three values"
    together = [{name: values[i] for name, values in case.sweep.items()} for i in range(3)]
    try:
        _assert_traced_twice(case, inputs, together)
    except (TypeError, ValueError):  # some exclude each other
        for name, values in case.sweep.items():
            _assert_traced_twice(case, inputs, [{name: x} for x in values])
    return ", ".join(case.sweep)


def _assert_traced_twice(case: LossCase, inputs: Inputs, options: Sequence[Mapping[str, Any]]) -> None:
    """Calls after the second trace and compile nothing."""
    given = jax.tree.map(jnp.asarray, inputs)
    for more in options[:2]:
        jax.block_until_ready(case.loss(*given, **{**case.variants[0], **more}))
    with _count_traces() as traces:
        for more in options[2:]:
            jax.block_until_ready(case.loss(*given, **{**case.variants[0], **more}))
    assert not traces, f"{len(traces)} traces for {list(options[2:])} after {list(options[:2])}"


@contextlib.contextmanager
def _count_traces() -> Iterator[list[str]]:
    seen: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if "jaxpr_trace" in event or "backend_compile" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
