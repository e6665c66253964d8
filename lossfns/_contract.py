"""The contract of every loss: arguments checked, rows masked, computed in float32 or wider, compiled.

A loss is a plain function decorated with `loss`. Shapes and dtypes are checked while tracing, at no cost afterwards.
Hyper-parameters are checked before tracing and then traced, so sweeping one recompiles nothing; a traced one out of
range gives NaN.
"""

import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from lossfns._arguments import Signature

P = ParamSpec("P")
R = TypeVar("R")

AxisName = str | tuple[str, ...] | None
"""Name of a mapped device axis, or several; None for one device."""

Check = Callable[[str, Any], Any]
"""`check(name, value)` returns the value to use or raises; not called for an allowed None."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A numeric hyper-parameter: a Python number, or an array.

    Readable values are checked: Python numbers, which become floats, and arrays of this process. Reading a scalar JAX
    array costs an eager call of about 5 microseconds on the CPU and waits for the array on an accelerator. A traced
    array cannot be read: `loss` turns the affected values into NaN.
    """

    meaning: str
    holds: Callable[[Any], Any]
    """Whether each number is in range, False for NaN; called with NumPy and traced arrays."""
    off_at_zero: bool = False
    """Whether a Python 0 becomes None, so that a disabled term is not compiled."""
    by_entry: bool = False
    """Whether arrays are allowed; the loss itself turns entries out of range into NaN."""

    @property
    def each(self) -> "Number":
        """This check with arrays allowed, for `entries`."""
        return dataclasses.replace(self, by_entry=True)

    def __call__(self, name: str, value: Any, *, read: bool = True) -> Any:
        """Returns `value` ready to be traced; without `read`, the values of an array are not checked."""
        is_array = isinstance(value, np.ndarray | jax.Array)
        if not (is_array or isinstance(value, int | float | np.generic)) or isinstance(value, bool | np.bool_):
            remedy = "; convert it with jnp.asarray(...)" if isinstance(value, list | tuple) else ""
            raise TypeError(f"{name} must be a number or an array, got {value!r}{remedy}")
        rank = value.ndim if is_array else 0
        kinds = (jnp.floating, jnp.integer)
        if (is_array or isinstance(value, np.generic)) and not any(jnp.issubdtype(value.dtype, x) for x in kinds):
            raise TypeError(f"{name} must be real numbers, got dtype {value.dtype} (shape {value.shape})")
        if rank and not self.by_entry:
            raise ValueError(f"{name} must be a scalar, got shape {value.shape}")
        if is_array and not (read and is_readable(value)):
            return value
        number = np.asarray(value) if rank else _as_float(np.asarray(value).item() if is_array else value)
        if not (np.all(self.holds(number)) if rank else self.holds(number)):
            raise ValueError(f"{name} must be {self.meaning}, got {value}")
        if rank or isinstance(value, jax.Array):
            return value
        return None if self.off_at_zero and number == 0 else number


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer larger than any float
        return math.copysign(math.inf, value > 0 or -1)


def is_readable(value: Any) -> bool:
    """Whether this process can read the values of an array now."""
    if isinstance(value, jax.core.Tracer):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable or value.is_fully_replicated


positive = Number("positive and finite", lambda v: (v > 0) & (v < math.inf))
non_negative = Number("at least 0 and finite", lambda v: (v >= 0) & (v < math.inf))
non_negative_or_off = dataclasses.replace(non_negative, off_at_zero=True)
finite = Number("finite", lambda v: (v > -math.inf) & (v < math.inf))
probability = Number("between 0 and 1", lambda v: (v >= 0) & (v <= 1))
probability_or_off = dataclasses.replace(probability, off_at_zero=True)


def static_number(number: Number) -> Check:
    """A number that selects a program and so must be known before tracing."""

    def check(name: str, value: Any) -> float:
        if not is_readable(value):
            raise TypeError(f"{name} must be a Python number, got a traced array")
        return float(number(name, value))

    return check


def one_of(*choices: str) -> Check:
    """A static choice between names."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in choices:  # an array would be compared entry by entry
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
        return value

    return check


def flag(name: str, value: Any) -> bool:
    """A static True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def python_int(name: str, value: Any, or_else: str = "") -> int:
    """A static integer; `or_else` names what else the argument may be, for the message."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a Python integer{or_else}, got {value!r}")
    return int(value)


def non_negative_int(name: str, value: Any) -> int:
    """A static integer of at least 0."""
    if python_int(name, value) < 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return int(value)


def optional_size(name: str, value: Any) -> int | None:
    """A static positive integer, or None."""
    if value is not None and python_int(name, value, " or None") < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value if value is None else int(value)


def axis_names(name: str, value: Any) -> Any:
    """The static name of a mapped axis, or several, or None."""
    names = value if isinstance(value, tuple) else (value,)
    if value is not None and not all(isinstance(axis, str) for axis in names):
        raise TypeError(f"{name} must be the name of a mapped axis or a tuple of names, got {value!r}")
    return value


def loss(
    *, static: Sequence[str] = (), term_weights: Callable[..., jax.Array] | None = None, **checks: Check
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compiles a loss and checks its arguments before tracing.

    Args:
        static: Names of the keyword arguments that select a program (axis names, choices, block sizes); all others are
            traced.
        term_weights: For a loss whose mean is not weighted by `where`: a function of the same arguments that returns
            the weights of that mean. It becomes an attribute of the loss.
        **checks: A check for each keyword argument that needs one.

    Returns:
        A decorator. The decorated function has the same signature and two attributes: `compiled`, the jitted function,
        and `checks`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if term_weights is not None:  # an attribute of both functions below
            weigh = jax.jit(term_weights, static_argnames=tuple(static), inline=True)
            function.term_weights = weigh  # type: ignore[attr-defined]

        @functools.wraps(function)
        def body(*args: P.args, **kwargs: P.kwargs) -> R:
            outer, _tracing.inside = _tracing.inside, True
            try:
                return function(*args, **kwargs)
            finally:
                _tracing.inside = outer

        return _guarded(function, jax.jit(body, static_argnames=tuple(static), inline=True), static, checks)

    return decorate


class _Tracing(threading.local):
    """Whether a loss is being traced, and so checks the hyper-parameters of the losses it calls."""

    inside = False


_tracing = _Tracing()


def uncompiled(**checks: Check) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`loss` for functions that cannot be compiled on their own, such as functions of functions."""
    return lambda function: _guarded(function, function, (), checks)


def _guarded(
    function: Callable[P, R], compiled: Callable[..., Any], static: Sequence[str], checks: dict[str, Check]
) -> Callable[P, R]:
    """Wraps `compiled` in the argument checks of `function`."""
    signature = Signature.of(function)
    # Defaults are passed explicitly: otherwise an omitted option and its default would compile twice.
    defaults = dict(signature.defaults)
    unknown = {*static, *checks} - {*signature.keywords}
    if unknown:
        raise TypeError(f"{function.__name__} has no keyword arguments {sorted(unknown)}")
    if "axis_name" in signature.keywords:
        checks = {**checks, "axis_name": axis_names}

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        signature.check(args, kwargs)
        options = {**defaults, **kwargs}
        unread: list[jax.Array] = []
        for name, check in checks.items():
            value = options.get(name)
            if value is None and (name in signature.optional or name not in options):
                continue
            if not isinstance(check, Number):
                options[name] = check(name, value)
            elif getattr(value, "ndim", 0):  # masked entries may hold anything
                options[name] = check(name, value, read=options.get("where") is None)
            else:
                options[name] = check(name, value)
                if not is_readable(value) and not _tracing.inside:
                    unread.append(check.holds(value))
        result = compiled(*args, **options)
        return cast(R, nan_out_of_range(unread, result, options.get("where")) if unread else result)

    wrapper.compiled = compiled  # type: ignore[attr-defined]
    wrapper.checks = checks  # type: ignore[attr-defined]
    return wrapper


def nan_out_of_range(in_range: Sequence[jax.Array], result: Any, where: Any) -> Any:
    """Makes the floating arrays of a result NaN, in value and gradient, if a hyper-parameter is out of range.

    Args:
        in_range: A boolean scalar per hyper-parameter.
        result: Any pytree of arrays.
        where: The loss's mask; masked positions keep their values.
    """

    def spoiled(x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        good = functools.reduce(jnp.logical_and, in_range)
        # A factor makes the gradient NaN too; a factor of 1 changes nothing.
        if where is not None:
            good |= ~_as_mask_of(jnp.asarray(where), x.ndim)
        return x * jnp.where(good, 1, jnp.nan).astype(x.dtype)

    return jax.tree.map(spoiled, result)


def _as_mask_of(where: jax.Array, rank: int) -> jax.Array:
    """The mask with rank `rank`: trailing axes are added, or reduced by "any"."""
    where = jnp.any(where, axis=tuple(range(rank, where.ndim))) if where.ndim > rank else where
    return jnp.expand_dims(where, tuple(range(where.ndim, rank)))


def accumulation_dtype(*arrays: jax.Array) -> jnp.dtype:
    """The dtype to compute in: float64 if any input is, else float32."""
    out: jnp.dtype = jnp.dtype(jnp.float64 if any(a.dtype == jnp.float64 for a in arrays) else jnp.float32)
    return out


_KINDS: dict[str, tuple[Any, ...]] = {
    "floating": (jnp.floating,),
    "integer": (jnp.integer,),
    "boolean": (jnp.bool_,),
    "real": (jnp.floating, jnp.integer, jnp.bool_),
}


def check_array(name: str, value: Any, kind: str = "floating") -> jax.Array:
    """Raises unless `value` is an array of one of the kinds "floating", "integer", "boolean", "real", or "x or y"."""
    if not isinstance(value, jax.Array):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}; convert it with jnp.asarray")
    if not any(jnp.issubdtype(value.dtype, wanted) for word in kind.split(" or ") for wanted in _KINDS[word]):
        article = "an" if kind.startswith("i") else "a"
        raise TypeError(f"{name} must have {article} {kind} dtype, got {value.dtype} (shape {value.shape})")
    return value


def check_rank(name: str, value: jax.Array, rank: int, layout: str) -> None:
    """Raises unless `value` has `rank` dimensions; `layout` names them, as in "[pairs, features]"."""
    if value.ndim != rank:
        raise ValueError(f"{name} must have rank {rank}, {layout}, got rank {value.ndim} (shape {value.shape})")


def check_shape(name: str, value: jax.Array, shape: tuple[int, ...], of: str) -> None:
    """Raises unless `value` has exactly `shape`; `of` names its origin."""
    if value.shape != shape:
        raise ValueError(f"{name} must have the shape {shape} {of}, got {value.shape} {value.dtype}")


def check_where(where: Any, shape: tuple[int, ...]) -> jax.Array | None:
    """Raises unless `where` is None or a boolean array of the result's shape."""
    if where is None:
        return None
    check_shape("where", check_array("where", where, "boolean"), shape, "of the result")
    return cast(jax.Array, where)


def check_classes(name: str, logits: jax.Array) -> None:
    """Raises unless the last axis has at least one class."""
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{name} must have a last axis of at least one class, got shape {logits.shape}")


def check_labels(
    logits: jax.Array, labels: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns (labels clipped into range, whether each is in range, where)."""
    check_array("logits", logits)
    check_array("labels", labels, "integer")
    check_classes("logits", logits)
    check_shape("labels", labels, logits.shape[:-1], f"of logits {logits.shape} without the class axis")
    where = check_where(where, labels.shape)
    labels = keep_rows(where, labels.astype(jnp.promote_types(labels.dtype, jnp.int32)))
    in_range = (labels >= 0) & (labels < logits.shape[-1])
    return jnp.clip(labels, 0, logits.shape[-1] - 1), in_range, where


def prepare(
    where: Any, /, *, row_axes: int = 0, others: str = "floating", **arrays: jax.Array
) -> tuple[jax.Array | None, list[jax.Array]]:
    """Checks named arrays of one shape; returns the mask and the arrays, 0 where masked, in the accumulation dtype.

    Args:
        where: Boolean mask of the rows, or None.
        row_axes: Number of trailing axes that belong to a row and not to the mask.
        others: Kind of the arrays after the first, as in `check_array`; the first is floating.
        **arrays: The arrays, by argument name.
    """
    (first, example), *rest = arrays.items()
    check_array(first, example)
    for name, array in rest:
        check_shape(name, check_array(name, array, others), example.shape, f"of {first}")
    where = check_where(where, example.shape[: max(example.ndim - row_axes, 0)])
    return where, sanitize(where, *arrays.values())


def sanitize(where: jax.Array | None, *arrays: jax.Array) -> list[jax.Array]:
    """Returns the arrays with 0 in masked rows, in the accumulation dtype."""
    dtype = accumulation_dtype(*arrays)
    return [keep_rows(where, array).astype(dtype) for array in arrays]


def as_scalar(value: Any, dtype: jnp.dtype) -> jax.Array:
    """A scalar hyper-parameter in the dtype of the computation."""
    return jnp.asarray(value).astype(dtype)


def entries(name: str, value: Any, check: Number, x: jax.Array, where: jax.Array | None, fill: float = 0) -> jax.Array:
    """A hyper-parameter as an array of the shape of `x`, from a scalar or an array that broadcasts to it.

    Entries that fail `check` are NaN, masked entries `fill`.
    """
    array = jnp.asarray(value, x.dtype)
    sizes = zip(array.shape[::-1], x.shape[::-1], strict=False)
    if array.ndim > x.ndim or any(n not in (1, size) for n, size in sizes):
        raise ValueError(
            f"{name} must be a scalar or broadcast to the shape {x.shape} of the result, got {array.shape}"
        )
    if array.ndim:  # `loss` checks scalars
        array = jnp.where(check.holds(array), array, jnp.nan)
    return keep_rows(where, jnp.broadcast_to(array, x.shape), fill)


def nan_where_invalid(valid: jax.Array, values: jax.Array) -> jax.Array:
    """Returns `values`, NaN in value and gradient where invalid."""
    return values * jnp.where(valid, 1, jnp.nan).astype(values.dtype)


def keep_rows(where: jax.Array | None, x: jax.Array, fill: float | int = 0) -> jax.Array:
    """`x` with masked rows replaced by `fill` before any computation.

    With `zero_masked` this is the double `where`: a NaN hidden only in the result would still reach the gradient, as 0
    times NaN.
    """
    if where is None:
        return x
    return jnp.where(jnp.expand_dims(where, tuple(range(where.ndim, x.ndim))), x, jnp.asarray(fill, x.dtype))


def zero_masked(where: jax.Array | None, values: jax.Array) -> jax.Array:
    """`values` with 0 at masked positions."""
    return values if where is None else jnp.where(where, values, jnp.zeros((), values.dtype))
