"""The one signature of every loss: checked, masked, computed in float32 or wider, compiled.

A loss is written as a plain function and decorated with `loss`. Shapes and dtypes are looked at while tracing, so
the checks cost nothing afterwards; hyper-parameters given as Python numbers are looked at before tracing and then
traced, so sweeping one recompiles nothing.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

Check = Callable[[str, Any], Any]
"""`check(name, value)` returns the value to use or raises; it sees Python values only, never tracers."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A numeric hyper-parameter: Python numbers are checked and made floats, arrays pass unseen (they may be traced).

    With `off_at_zero` a Python 0 becomes None, so that a term that is switched off is not even compiled.
    """

    meaning: str
    holds: Callable[[Any], Any]
    off_at_zero: bool = False

    def __call__(self, name: str, value: Any) -> Any:
        """Return `value` ready to be traced."""
        if value is None or isinstance(value, jax.Array):
            return value
        if isinstance(value, bool | np.bool_ | str) or not isinstance(value, int | float | np.ndarray | np.generic):
            raise TypeError(f"{name} must be a number or an array, got {value!r}")
        if not np.all(self.holds(np.asarray(value))):
            raise ValueError(f"{name} must be {self.meaning}, got {value}")
        if isinstance(value, np.ndarray) and value.ndim:
            return value
        return None if self.off_at_zero and value == 0 else float(value)


positive = Number("positive and finite", lambda v: (v > 0) & (v < math.inf))
non_negative = Number("at least 0 and finite", lambda v: (v >= 0) & (v < math.inf))
non_negative_or_off = dataclasses.replace(non_negative, off_at_zero=True)
share = Number("between 0 and 1", lambda v: (v >= 0) & (v <= 1))
share_or_off = dataclasses.replace(share, off_at_zero=True)


def one_of(*choices: str) -> Check:
    """A static choice between names."""

    def check(name: str, value: Any) -> Any:
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
        return value

    return check


def flag(name: str, value: Any) -> bool:
    """A static True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def optional_size(name: str, value: Any) -> int | None:
    """A static positive integer, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a Python integer or None, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def loss(
    *, static: Sequence[str] = (), term_weights: Callable[..., jax.Array] | None = None, **checks: Check
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a loss and check its hyper-parameters before tracing.

    Args:
        static: Names of keyword arguments that select a program (names of axes, choices, block sizes); all other
            keyword arguments are traced.
        term_weights: For a loss whose values count elsewhere than where `where` says, or by different amounts: a
            function of the same arguments that returns the weights with which the mean of the values is the loss. It
            becomes an attribute of the loss, which whoever takes the mean looks for.
        **checks: A check for each keyword argument that has one.

    Returns:
        A decorator. The decorated function has the same signature and an attribute `compiled`, the jitted function.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters.values()
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        # Defaults are passed explicitly: otherwise leaving an option out and giving its default would be two programs.
        defaults = {p.name: p.default for p in keywords if p.default is not p.empty}
        unknown = {*static, *checks} - {p.name for p in keywords}
        if unknown:
            raise TypeError(f"{function.__name__} has no keyword arguments {sorted(unknown)}")
        if term_weights is not None:  # both functions made of this one carry it
            weigh = jax.jit(term_weights, static_argnames=tuple(static), inline=True)
            function.term_weights = weigh  # type: ignore[attr-defined]
        compiled = jax.jit(function, static_argnames=tuple(static), inline=True)

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            options = {**defaults, **kwargs}
            for name, check in checks.items():
                if name in options:
                    options[name] = check(name, options[name])
            return cast(R, compiled(*args, **options))

        wrapper.compiled = compiled  # type: ignore[attr-defined]
        return wrapper

    return decorate


def accumulation_dtype(*arrays: jax.Array) -> jnp.dtype:
    """The dtype to compute in: float64 if any input is, else float32."""
    return jnp.dtype(jnp.float64 if any(a.dtype == jnp.float64 for a in arrays) else jnp.float32)


_KINDS: dict[str, tuple[Any, ...]] = {
    "floating": (jnp.floating,),
    "integer": (jnp.integer,),
    "boolean": (jnp.bool_,),
    "real": (jnp.floating, jnp.integer, jnp.bool_),
}


def check_array(name: str, value: Any, kind: str = "floating") -> jax.Array:
    """Raise unless `value` is an array of a kind: "floating", "integer", "boolean", "real", or two joined by " or "."""
    if not isinstance(value, jax.Array):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}; convert it with jnp.asarray")
    if not any(jnp.issubdtype(value.dtype, wanted) for word in kind.split(" or ") for wanted in _KINDS[word]):
        article = "an" if kind.startswith("i") else "a"
        raise TypeError(f"{name} must have {article} {kind} dtype, got {value.dtype} (shape {value.shape})")
    return value


def check_rank(name: str, value: jax.Array, rank: int, layout: str) -> None:
    """Raise unless `value` has `rank` dimensions; `layout` names them, as in "[pairs, features]"."""
    if value.ndim != rank:
        raise ValueError(f"{name} must have rank {rank}, {layout}, got rank {value.ndim} (shape {value.shape})")


def check_shape(name: str, value: jax.Array, shape: tuple[int, ...], of: str) -> None:
    """Raise unless `value` has exactly `shape`; `of` says whose shape that is. Nothing is broadcast."""
    if value.shape != shape:
        raise ValueError(f"{name} must have the shape {shape} {of}, got {value.shape} {value.dtype}")


def check_where(where: Any, shape: tuple[int, ...]) -> jax.Array | None:
    """Raise unless `where` is None or a boolean array of the result's shape."""
    if where is None:
        return None
    check_shape("where", check_array("where", where, "boolean"), shape, "of the result")
    return cast(jax.Array, where)


def hyper(value: Any, dtype: jnp.dtype) -> jax.Array:
    """A scalar hyper-parameter in the dtype of the computation."""
    array = jnp.asarray(value)
    if array.ndim:
        raise ValueError(f"a hyper-parameter must be a scalar, got shape {array.shape}")
    return array.astype(dtype)


def keep_rows(where: jax.Array | None, x: jax.Array, fill: float | int = 0) -> jax.Array:
    """`x` with masked rows replaced by `fill`, before anything is computed of them.

    Together with `zero_masked` this is the double `where`: a NaN that is only hidden in the result still reaches
    the gradient, as 0 times NaN.
    """
    if where is None:
        return x
    return jnp.where(jnp.expand_dims(where, tuple(range(where.ndim, x.ndim))), x, jnp.asarray(fill, x.dtype))


def zero_masked(where: jax.Array | None, values: jax.Array) -> jax.Array:
    """`values` with 0 at masked places."""
    return values if where is None else jnp.where(where, values, jnp.zeros((), values.dtype))
