"""The description of one loss for the conformance suite, and operations on its inputs."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Inputs = tuple[Any, ...]

# A value is a chain of about ten roundings and a sum over at most a few dozen terms, and XLA's vectorised exp and log
# are within 2 ulp, so a correct implementation stays within 16 ulp of the exact result. The usual mistakes (an
# unshifted log-sum-exp at logits of 1e4, a clipped probability, an epsilon in a norm) are off by thousands of ulp.
ULPS = 16.0


class Skip(Exception):
    """Raised by a property that does not apply; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class BadCall:
    """A call that must raise at trace time, with parts of its message."""

    args: Inputs
    words: tuple[str, ...]
    """Parts that must occur in the message, expected and actual, such as `("(4,)", "(5,)")`."""
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: type[Exception] | tuple[type[Exception], ...] = (ValueError, TypeError)


@dataclasses.dataclass(frozen=True)
class LossCase:
    """A loss with inputs and options for the checks; the first two fields are required.

    "Rows" are the entries of the leading axis, shared by all arrays, `where` and the result.
    """

    loss: Callable[..., jax.Array]
    make_inputs: Callable[[np.random.Generator, int], Inputs]
    """`make_inputs(rng, rows)` returns the positional arrays; the suite casts the floats."""
    oracle: Callable[..., Any] | None = None
    """`oracle(*arrays, **kwargs)` in NumPy, float64, plain loops, no mask: the expected values."""
    naive: Callable[..., jax.Array] | None = None
    """The textbook formula in `jax.numpy`, in the dtype of the inputs: the reference for low precision."""
    name: str = ""
    variants: tuple[Mapping[str, Any], ...] = ({},)
    """Sets of keyword arguments to check; the first is used where one is enough."""
    sweep: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """Numeric hyper-parameters, each with three or more values that must not recompile."""
    differentiable: tuple[int, ...] | None = None
    """Positions of the arrays to differentiate; by default all floating ones."""
    labels: int | None = None
    """Position of the class labels that must be in range, or None."""
    num_classes: Callable[..., int] = lambda *args: int(args[0].shape[-1])
    """`num_classes(*arrays)`: the first label out of range."""
    outside: Mapping[int, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """Positions of arrays with invalid numbers, such as probabilities -> those numbers."""
    hostile: Callable[[np.random.Generator], Mapping[str, tuple[Inputs, Mapping[str, Any]]]] | None = None
    """Further named inputs, `name -> (arrays, kwargs)`; the oracle decides what is right, including NaN."""
    bad_calls: tuple[BadCall, ...] = ()
    batched: bool = True
    """False for a function of parameters: any pytrees in, one scalar out, no rows and no `where`."""
    batch_coupled: bool = False
    """True if a row's value depends on the other rows; the loss then takes `axis_name`."""
    nan_stays: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """Position of an array of a coupled loss -> the reason why its NaN does not reach every row."""
    unlike_differences: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Number of `sweep` -> the reason why its gradient is not the derivative of the value."""
    flat: str = ""
    """The reason why a valid entry may not affect any value (a plateau, a decided comparison)."""
    element_masks: bool = False
    """True if a result with more than one axis may be masked at any element without changing the others."""
    smooth: bool = True
    """False if second derivatives do not exist everywhere: gradients are checked to first order only."""
    modes: tuple[str, ...] = ("fwd", "rev")
    """Modes of differentiation; a loss with its own reverse rule has no `"fwd"`."""
    shift_invariant: tuple[int, ...] = ()
    """Positions of logits that are invariant to a constant per row."""
    scale_invariant: tuple[int, ...] = ()
    """Positions of embeddings that are invariant to positive factors."""
    symmetric: tuple[tuple[int, int], ...] = ()
    """Pairs of positions that may be exchanged."""
    non_negative: bool = False
    below_zero: str = ""
    """The reason why rounding may make a non-negative value negative."""
    limits: Mapping[str, Callable[[Inputs], tuple[Any, Any]]] = dataclasses.field(default_factory=dict)
    """Other laws: name -> function of the inputs that returns computed and expected values."""
    free: tuple[int, ...] | None = None
    """Positions of the arrays that may hold any number when fuzzed; by default the first, and those of the three laws
    above. `()` where arrays are legal or not as a whole, such as probabilities and boxes."""
    magnitudes: tuple[float, float] = (1e-30, 1e30)
    """Smallest and largest entries of the free arrays when fuzzed: for formulas that inherently overflow or underflow
    earlier, such as fourth powers."""
    enumerated: bool = False
    """True if the oracle enumerates all alignments, paths or trees: a proof by brute force."""
    rows: int = 6
    ulps: float = ULPS
    condition: Callable[[Mapping[str, Any]], float] = lambda kwargs: 1.0
    """`condition(kwargs)`: factor by which the formula magnifies rounding, such as 1 / temperature."""
    skip: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Property -> the reason why it does not apply."""

    def __str__(self) -> str:
        return self.name or getattr(self.loss, "__name__", repr(self.loss))

    def inputs(self, rows: int | None = None, seed: int = 0) -> Inputs:
        """Inputs in float32, the same for the same arguments."""
        out: Inputs = cast(
            tuple(self.make_inputs(np.random.default_rng(seed), self.rows if rows is None else rows)), np.float32
        )
        return out

    def moving(self, inputs: Inputs) -> tuple[int, ...]:
        """Positions of the arrays to differentiate."""
        if self.differentiable is not None:
            return self.differentiable
        return tuple(
            i for i, x in enumerate(inputs) if jax.tree.leaves(x) and all(map(is_floating, jax.tree.leaves(x)))
        )

    def tolerance(self, kwargs: Mapping[str, Any]) -> float:
        """Allowed error in units of the last place."""
        return self.ulps * self.condition(kwargs)


def is_floating(x: Any) -> bool:
    """Whether an array or scalar is floating, including bfloat16 (which NumPy does not count)."""
    return bool(jnp.issubdtype(np.asarray(x).dtype, np.floating))


def cast(inputs: Any, dtype: Any) -> Any:
    """Floating leaves in `dtype`, the others untouched; all NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x).astype(dtype) if is_floating(x) else np.asarray(x), inputs)


def take(inputs: Any, index: Any) -> Any:
    """Rows selected by a mask, an index array or a slice."""
    return jax.tree.map(lambda x: np.asarray(x)[index], inputs)


def count_rows(inputs: Inputs) -> int:
    """Length of the leading axis."""
    return int(jax.tree.leaves(inputs)[0].shape[0])


def result_shape(case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of the result, which is the shape of `where`; nothing is computed."""
    key = ("shape", _key(case.loss, kwargs), _key(jax.tree.map(lambda x: (x.shape, x.dtype.str), inputs)))
    if key not in _KNOWN:
        _remember(key, tuple(jax.eval_shape(functools.partial(case.loss, **kwargs), *inputs).shape))
    return tuple(_KNOWN[key])


def row_weights(case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any]) -> np.ndarray:
    """Distinct cotangents of both signs, so that swapped values are detected."""
    if not case.batched:
        return np.float32(0.75)  # type: ignore[return-value]
    shape = result_shape(case, inputs, kwargs)
    place = np.arange(np.prod(shape, dtype=int))
    return ((0.5 + place / max(place.size, 1)) * (-1.0) ** place).astype(np.float32).reshape(shape)


def row_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask over rows, spread over the elements of the result."""
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - 1)), shape).copy()


def _spread(weights: Any, values: jax.Array) -> jax.Array:
    weights = jnp.asarray(weights).astype(values.dtype)
    return jnp.broadcast_to(weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim)), values.shape)


def value_and_gradients(
    loss: Callable[..., jax.Array], moving: tuple[int, ...], kwargs: Mapping[str, Any]
) -> Callable[..., tuple[jax.Array, tuple[Any, ...], dict[str, Any]]]:
    """`run(inputs, where, weights, **more)`: the values, and the gradients of `sum(weights * values)`.

    By the moving arrays and by the numbers `more`.
    """

    def run(inputs: Inputs, where: Any, weights: Any, **more: Any) -> tuple[jax.Array, tuple[Any, ...], dict[str, Any]]:
        options = {**kwargs, **({} if where is None else {"where": where})}

        def values_of(moved: tuple[Any, ...], numbers: dict[str, Any]) -> jax.Array:
            return loss(*with_moved(inputs, moving, moved), **options, **numbers)

        if not moving and not more:
            return values_of((), {}), (), {}
        values, pull_back = jax.vjp(values_of, tuple(inputs[i] for i in moving), more)
        return values, *pull_back(_spread(weights, values))

    return run


def with_moved(inputs: Inputs, moving: tuple[int, ...], moved: tuple[Any, ...]) -> Inputs:
    """The inputs with `moved` at the positions `moving`."""
    full = list(inputs)
    for position, x in zip(moving, moved, strict=True):
        full[position] = x
    return tuple(full)


# Compiled programs and result shapes, shared by properties and by cases of the same loss.
_KNOWN: dict[Any, Any] = {}


def _remember(key: Any, value: Any) -> None:
    if len(_KNOWN) >= 64:  # drop the oldest: a program takes megabytes, and a loss has a few dozen at most
        del _KNOWN[next(iter(_KNOWN))]
    _KNOWN[key] = value


def _key(*tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((x.shape, str(x.dtype), x.tobytes()) if hasattr(x, "tobytes") else x for x in leaves)


@functools.lru_cache(maxsize=1024)
def option_defaults(loss: Callable[..., Any]) -> Mapping[str, Any]:
    """Keyword arguments of a function and their defaults; `...` where it takes any."""
    parameters = inspect.signature(loss).parameters.values()
    return {"..." if p.kind is p.VAR_KEYWORD else p.name: p.default for p in parameters}


def all_rows(case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any]) -> np.ndarray | None:
    """A mask that is True everywhere, or None for a function that takes none."""
    if not case.batched or not {"where", "..."} & set(option_defaults(case.loss)):
        return None
    return np.ones(result_shape(case, inputs, kwargs), bool)


def evaluate(
    case: LossCase,
    inputs: Inputs,
    kwargs: Mapping[str, Any],
    *,
    where: Any = None,
    weights: Any = None,
    maskless: bool = False,
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Values and gradients as NumPy arrays; `weights` default to `row_weights`, `where` to True everywhere.

    Compiled once for each shape: a mask is always given unless `maskless`, and the numbers of `sweep` are traced, so
    that other masks and other numbers are the same program.
    """
    return evaluate_all(case, inputs, kwargs, where=where, weights=weights, maskless=maskless)[:2]


def evaluate_all(
    case: LossCase,
    inputs: Inputs,
    kwargs: Mapping[str, Any],
    *,
    where: Any = None,
    weights: Any = None,
    maskless: bool = False,
) -> tuple[np.ndarray, tuple[Any, ...], dict[str, np.ndarray]]:
    """Like `evaluate`, with the gradients by the numbers of `sweep` in use."""
    weights = row_weights(case, inputs, kwargs) if weights is None else weights
    if where is None and not maskless:
        where = all_rows(case, inputs, kwargs)
    given = {**{name: option_defaults(case.loss).get(name) for name in case.sweep}, **kwargs}
    # A number of 0 may disable something, which is another program.
    traced = {name: x for name, x in given.items() if name in case.sweep and isinstance(x, float) and x != 0}
    rest = {name: x for name, x in kwargs.items() if name not in traced}
    try:
        out = _program(case, inputs, rest)(inputs, where, weights, **traced)
    except TypeError:  # it reads its numbers before tracing
        out = _program(case, inputs, kwargs)(inputs, where, weights)
    result: tuple[np.ndarray, tuple[Any, ...], dict[str, np.ndarray]] = jax.tree.map(np.asarray, out)
    return result


def _program(case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    key = ("program", case.moving(inputs), _key(case.loss, kwargs))
    if key not in _KNOWN:
        _remember(key, jax.jit(value_and_gradients(case.loss, case.moving(inputs), kwargs)))
    program: Callable[..., Any] = _KNOWN[key]
    return program


def expected_values(case: LossCase, inputs: Inputs, kwargs: Mapping[str, Any]) -> np.ndarray:
    """The oracle at exactly these inputs, in float64."""
    if case.oracle is None:
        raise Skip("no oracle given")
    with np.errstate(all="ignore"):
        return np.asarray(case.oracle(*cast(inputs, np.float64), **kwargs), dtype=np.float64)


def assert_close(
    actual: Any, expected: Any, what: str, *, ulps: float, dtype: Any = np.float32, relative_to: float = 1.0
) -> None:
    """Every leaf within `ulps * eps(dtype) * (|expected| + relative_to)`; NaN equals NaN, infinities must be equal.

    `relative_to` is 1 for values, which are nats or squares of inputs of order one: a loss of 1e-9 reached by adding
    terms of order one cannot be relatively exact. For gradients it is their largest entry.
    """
    for got, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
        assert got.shape == wanted.shape, f"{what}: expected shape {wanted.shape}, got {got.shape}"
        with np.errstate(invalid="ignore"):
            allowed = ulps * float(jnp.finfo(dtype).eps) * (np.abs(wanted) + relative_to)
            near = np.isfinite(wanted) & (np.abs(got - wanted) <= allowed)
            good = near | (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        if not good.all():
            at = tuple(int(i) for i in np.argwhere(~good)[0])
            place = f" at {list(at)}" if at else ""
            count = f"({(~good).sum()} of {good.size} differ)"
            raise AssertionError(f"{what}{place}: expected {wanted[at]:.9g}, got {got[at]:.9g} {count}")


def largest(tree: Any) -> float:
    """The largest finite magnitude in a pytree, at least the smallest normal float32."""
    leaves = [np.abs(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]
    return max([float(x[np.isfinite(x)].max(initial=0.0)) for x in leaves] + [float(np.finfo(np.float32).tiny)])


def assert_same(
    case: LossCase, actual: Any, expected: Any, kwargs: Mapping[str, Any], what: str, dtype: Any = np.float32
) -> None:
    """Values and gradients agree, allowing both sides their rounding."""
    ulps = 2 * case.tolerance(kwargs)
    assert_close(actual[0], expected[0], f"{what}, value", ulps=ulps, dtype=dtype)
    assert_close(actual[1], expected[1], f"{what}, gradient", ulps=ulps, dtype=dtype, relative_to=largest(expected[1]))


def described(kwargs: Mapping[str, Any]) -> str:
    """Names the options of a call."""
    return f"with {dict(kwargs)}" if kwargs else "with default arguments"


def needs_rows(case: LossCase) -> None:
    """Skips functions of parameters."""
    if not case.batched:
        raise Skip("a function of parameters has no rows")


def some_rows(rows: int) -> np.ndarray:
    """A mask that keeps the first row, drops the last and is irregular between; half of the rows stay."""
    mask = np.zeros(rows, bool)
    kept = np.random.default_rng(rows).permutation(np.arange(1, max(rows - 1, 1)))[: max((rows + 1) // 2 - 1, 0)]
    mask[:1], mask[kept] = True, True
    return mask
