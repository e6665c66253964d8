"""The conformance suite: checks that a loss, including your own, obeys the contract of this package.

A property takes a case and inputs, and raises AssertionError (it fails) or Skip (it does not apply); it may return a
sentence with measurements. All are deterministic, so rows can be removed from a failing input while it still fails.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lossfns.testing import arguments, fuzz, invariances, laws, nans, numerics, signature, traced_numbers, weighing
from lossfns.testing.case import ULPS as ULPS
from lossfns.testing.case import BadCall as BadCall
from lossfns.testing.case import Inputs as Inputs
from lossfns.testing.case import LossCase as LossCase
from lossfns.testing.case import Skip, count_rows, take

PROPERTIES: Mapping[str, Callable[[LossCase, Inputs], str | None]] = {
    "oracle": numerics.oracle,
    "gradients": numerics.gradients,
    "hostile inputs": numerics.hostile,
    "low precision": numerics.low_precision,
    "a NaN shows": nans.nan_shows,
    "hyper-parameters": traced_numbers.hyper_parameters,
    "eager = jit": invariances.eager_is_jit,
    "vmap = loop": invariances.vmap_is_loop,
    "masked = deleted": invariances.masked_is_deleted,
    "all masked = 0": invariances.all_masked_is_zero,
    "the mask given once": weighing.mask_is_given_once,
    "micro-batches = whole": invariances.micro_batches,
    "permutation": invariances.permutation,
    "devices = one device": invariances.devices,
    "errors name both sides": signature.errors,
    "result dtype": signature.result_dtype,
    "labels out of range": signature.labels_out_of_range,
    "no recompilation": signature.no_recompilation,
    "values out of range": signature.values_out_of_range,
    "hyper-parameters out of range": arguments.out_of_range,
    "shift of logits": laws.shift,
    "scale of embeddings": laws.scale,
    "symmetry": laws.symmetry,
    "non-negative": laws.non_negative,
    "limits": laws.limits,
    "fuzz": fuzz.fuzz,
}
"""Name -> property; each docstring states the requirement."""

# These make their own inputs or only look at shapes, so shrinking the rows would tell nothing.
_NOT_SHRUNK = (
    "a NaN shows",
    "devices = one device",
    "errors name both sides",
    "result dtype",
    "no recompilation",
    "fuzz",
)


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of one property."""

    property: str
    status: str
    """`"passed"`, `"failed"` or `"skipped"`."""
    detail: str = ""
    """What was measured, why it was skipped, or how it failed."""
    inputs: Inputs = ()
    """The smallest failing inputs found; empty unless it failed."""


@dataclasses.dataclass(frozen=True)
class Report:
    """One result per property; `print(report)` shows the table."""

    loss: str
    results: tuple[Result, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the properties that failed."""
        return tuple(result.property for result in self.results if result.status == "failed")

    def __str__(self) -> str:
        width = max((len(result.property) for result in self.results), default=0)
        lines = [f"{result.property:<{width}}  {result.status:<7}  {result.detail}".rstrip() for result in self.results]
        return "\n".join([self.loss, *lines])


def check_property(case: LossCase, name: str) -> Result:
    """Runs one property of `PROPERTIES` on a case.

    Args:
        case: The loss and its inputs.
        name: A key of `PROPERTIES`.

    Returns:
        The result; a failing property does not raise.

    Raises:
        ValueError: If there is no such property, here or in `case.skip`.
    """
    for key in (name, *case.skip):
        if key not in PROPERTIES:
            raise ValueError(f"expected a property among {sorted(PROPERTIES)}, got {key!r}")
    if name in case.skip:
        return Result(name, "skipped", case.skip[name])
    result = _attempt(case, name, case.inputs())
    if result.status == "failed" and case.batched and name not in _NOT_SHRUNK:
        return _with_fewest_rows(case, result)
    return result


def check_loss(
    loss: Callable[..., jax.Array],
    *,
    make_inputs: Callable[[np.random.Generator, int], Inputs],
    oracle: Callable[..., Any] | None = None,
    naive: Callable[..., jax.Array] | None = None,
    properties: Sequence[str] | None = None,
    verbose: bool = True,
    **options: Any,
) -> Report:
    """Checks that a loss obeys the contract of this package.

    Args:
        loss: `loss(*arrays, where=None, **hyper_parameters)`, one value per row (or token) of the leading axis, with
            `axis_name` if `batch_coupled=True`. If its mean is not weighted by `where`, it has an attribute
            `term_weights(*arrays, where=None, **hyper_parameters)`.
        make_inputs: `make_inputs(rng, rows)` returns the positional arrays of a small batch.
        oracle: The expected values, `oracle(*arrays, **hyper_parameters)`, in float64 NumPy. Without it, values are
            only compared with each other (jit, masks, devices, ...).
        naive: The textbook formula in `jax.numpy`; gradients of bfloat16 and float16 inputs must not be worse than its.
        properties: Names from `PROPERTIES`; all by default.
        verbose: Print the table.
        **options: Any other field of `LossCase`: `variants`, `sweep`, `labels`, `hostile`, `bad_calls`,
            `batch_coupled`, `smooth`, `skip`, ...

    Returns:
        The table of properties: passed, failed or skipped with a reason.

    Raises:
        AssertionError: If properties fail; names each with the smallest failing inputs found.
        TypeError: If an option is not a field of `LossCase`.
        ValueError: If a property's name is unknown.

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> def absolute(predictions, targets, *, where=None):
    ...     if where is None:
    ...         where = jnp.ones(predictions.shape, bool)
    ...     errors = jnp.where(where, predictions - targets, 0)
    ...     return jnp.abs(errors).astype(jnp.promote_types(errors.dtype, jnp.float32))
    >>> report = check_loss(
    ...     absolute,
    ...     make_inputs=lambda rng, rows: (rng.integers(9, size=rows) / 8, np.zeros(rows)),
    ...     oracle=lambda predictions, targets: abs(predictions - targets),
    ...     properties=["oracle", "masked = deleted", "result dtype", "labels out of range"],
    ... )
    absolute
    oracle               passed   largest float32 error 0.0e+00
    masked = deleted     passed
    result dtype         passed
    labels out of range  skipped  no class labels
    """
    case = LossCase(loss=loss, make_inputs=make_inputs, oracle=oracle, naive=naive, **options)
    names = PROPERTIES if properties is None else properties
    report = Report(str(case), tuple(check_property(case, name) for name in names))
    if verbose:
        print(report)
    if report.failed:
        failures = [result for result in report.results if result.status == "failed"]
        raise AssertionError("\n\n".join(_failure(report.loss, result) for result in failures))
    return report


def _attempt(case: LossCase, name: str, inputs: Inputs) -> Result:
    try:
        return Result(name, "passed", PROPERTIES[name](case, inputs) or "")
    except Skip as skip:
        return Result(name, "skipped", str(skip))
    except Exception as error:  # an unexpected exception is a failure too
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return Result(name, "failed", f"{kind}{error}", getattr(error, "inputs", inputs))


def _with_fewest_rows(case: LossCase, failure: Result) -> Result:
    """Removes rows one by one as long as the property fails."""
    row = 0
    while count_rows(failure.inputs) > max(row, 1):
        fewer = take(failure.inputs, np.arange(count_rows(failure.inputs)) != row)
        attempt = _attempt(case, failure.property, fewer)
        if attempt.status == "failed":
            failure = attempt
        else:
            row += 1
    return failure


def _failure(loss: str, result: Result) -> str:
    leaves = jax.tree.leaves(result.inputs)
    arrays = "\n".join(f"  [{i}] {np.array2string(np.asarray(x), threshold=64)}" for i, x in enumerate(leaves))
    return f"{loss} fails {result.property!r}: {result.detail}\nsmallest failing inputs:\n{arrays}"
